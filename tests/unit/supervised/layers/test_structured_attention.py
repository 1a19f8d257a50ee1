"""Structured attention against the sum over all sets of keys, and attention in both directions."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from rayloom_supervised.layers.attention import attend, attend_both_ways
from rayloom_supervised.layers.structured_attention import attend_structured, chain_marginals

B, Q, K = 2, 3, 5
LENGTHS = (5, 3)
MASK = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_enumeration(scores: Tensor, transitions: Tensor) -> Tensor:
    """Return p(z = 1) [K] of one query's scores [K]."""
    states = torch.tensor(list(itertools.product((0, 1), repeat=len(scores))))
    total = (states * scores).sum(dim=1) + transitions[states[:, :-1], states[:, 1:]].sum(dim=1)
    return torch.softmax(total, dim=0) @ states.to(scores.dtype)


def test_marginals_and_their_gradients_are_those_of_all_sets() -> None:
    scores, transitions = 2 * random(0, B, Q, K), random(1, 2, 2)
    for tensor in (scores, transitions):
        tensor.requires_grad_()
    found = chain_marginals(scores, transitions, MASK)
    rows = [
        F.pad(by_enumeration(scores[b, q, : LENGTHS[b]], transitions), (0, K - LENGTHS[b]))
        for b in range(B)
        for q in range(Q)
    ]
    wanted = torch.stack(rows).view(B, Q, K)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)
    into = random(2, B, Q, K)
    for ours, theirs in zip(
        *(torch.autograd.grad((r * into).sum(), (scores, transitions)) for r in (found, wanted)), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)


def test_padding_may_hold_anything_and_lie_anywhere() -> None:
    scores, transitions = random(0, 1, 1, 3), random(1, 2, 2)
    wide = torch.full((1, 1, 6), float("nan"), dtype=torch.float64)
    places = torch.tensor([1, 2, 5])
    wide[..., places] = scores
    mask = torch.zeros(1, 6, dtype=torch.bool).index_fill(1, places, True)
    wide.requires_grad_()
    found = chain_marginals(wide, transitions, mask)
    torch.testing.assert_close(found[..., places], chain_marginals(scores, transitions))
    (gradient,) = torch.autograd.grad(found.sum(), wide)
    assert not found[..., ~mask[0]].any() and not gradient[..., ~mask[0]].any() and bool(gradient.isfinite().all())


def test_without_transitions_keys_are_chosen_by_themselves() -> None:
    scores, values = random(0, B, Q, K), random(3, B, K, 4)
    context, weights = attend_structured(scores, values, torch.zeros(2, 2, dtype=torch.float64))
    torch.testing.assert_close(weights, torch.sigmoid(scores))
    torch.testing.assert_close(context, torch.einsum("bqk,bkv->bqv", weights, values))


def test_neighbours_are_chosen_together_where_the_chain_says_so() -> None:
    scores = torch.tensor([[[4.0, 0.0, 0.0, -4.0]]])
    alone, joined = (chain_marginals(scores, strength * torch.eye(2))[0, 0] for strength in (0.0, 2.0))
    assert alone[1] == alone[2] == 0.5 and joined[1] > 0.6 and joined[2] < 0.4


def test_both_ways_are_attention_there_and_attention_back() -> None:
    scores, first, second = random(0, B, Q, K), random(1, B, Q, 4), random(2, B, K, 6)
    first_real = torch.tensor([[True, True, True], [True, False, False]])
    there, back = attend_both_ways(scores, first, second, first_real, MASK)
    torch.testing.assert_close(there[first_real], attend(scores, second, MASK)[0][first_real])
    torch.testing.assert_close(back[MASK], attend(scores.transpose(1, 2), first, first_real)[0][MASK])
    assert not there[~first_real].any() and not back[~MASK].any()
    again = attend_both_ways(scores.transpose(1, 2), second, first, MASK, first_real)
    torch.testing.assert_close(again, (back, there))
