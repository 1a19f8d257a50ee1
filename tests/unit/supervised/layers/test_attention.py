"""Attention against torch's and against sums written out."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayloom_supervised.layers.attention import (
    AdditiveScore,
    BilinearScore,
    DotScore,
    MultiHeadAttention,
    attend,
    attend_hard,
    attention_weights,
    make_score,
)

B, Q, K, D = 2, 3, 5, 4
MASK = torch.tensor([[True, True, False, False, False], [True, False, True, True, True]])


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("mask", [None, MASK, torch.rand(B, Q, K, generator=torch.Generator().manual_seed(2)) < 0.7])
def test_scaled_dot_attention_is_torchs(mask: Tensor | None) -> None:
    queries, keys, values = random(B, Q, D), random(B, K, D), random(B, K, 6)
    context, weights = attend(DotScore()(queries, keys), values, mask)
    wide = mask[:, None] if mask is not None and mask.ndim == 2 else mask
    torch.testing.assert_close(context, F.scaled_dot_product_attention(queries, keys, values, wide))
    torch.testing.assert_close(weights @ values, context)


def test_scores_are_those_of_the_papers() -> None:
    queries, keys = random(B, Q, 4), random(B, K, 6)
    additive, bilinear = AdditiveScore(4, 6, 3).double(), BilinearScore(4, 6).double()
    found = additive(queries, keys), bilinear(queries, keys), DotScore(scaled=False)(queries, keys[:, :, :4])
    for b in range(B):
        for q in range(Q):
            for k in range(K):
                query, key = queries[b, q], keys[b, k]
                inner = torch.tanh(additive.key.weight @ key + additive.key.bias + additive.query.weight @ query)
                wanted = additive.energy.weight[0] @ inner, key @ bilinear.weight.weight @ query, key[:4] @ query
                for scores, one in zip(found, wanted, strict=True):
                    torch.testing.assert_close(scores[b, q, k], one)


def test_who_may_look_nowhere_sees_zeros_and_gives_no_gradient() -> None:
    scores, values = random(1, 1, K).requires_grad_(), random(1, K, D)
    context, weights = attend(scores, values, torch.zeros(1, K, dtype=torch.bool))
    assert not context.any() and not weights.any()
    (gradient,) = torch.autograd.grad(context.sum(), scores)
    assert not gradient.any() and not gradient.isnan().any()


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_many_heads_are_torchs(heads: int) -> None:
    ours = MultiHeadAttention(8, heads, 6, 5).double()
    peer = nn.MultiheadAttention(8, heads, kdim=6, vdim=5, batch_first=True).double()
    with torch.no_grad():
        for weight, layer in ((peer.q_proj_weight, ours.query), (peer.k_proj_weight, ours.key),
                              (peer.v_proj_weight, ours.value)):  # fmt: skip
            weight.copy_(layer.weight)
        peer.in_proj_bias.copy_(torch.cat((ours.query.bias, ours.key.bias, ours.value.bias)))
        peer.out_proj.weight.copy_(ours.output.weight)
        peer.out_proj.bias.copy_(ours.output.bias)
    queries, keys, values = random(B, Q, 8), random(B, K, 6), random(B, K, 5)
    result, weights = ours(queries, keys, values, MASK)
    wanted, theirs = peer(queries, keys, values, key_padding_mask=~MASK, average_attn_weights=False)
    torch.testing.assert_close(result, wanted)
    torch.testing.assert_close(weights, theirs)


def test_self_attention_does_not_see_the_order() -> None:
    layer, inputs = MultiHeadAttention(8, 2).double(), random(B, K, 8)
    order = torch.randperm(K)
    torch.testing.assert_close(layer(inputs[:, order])[0], layer(inputs)[0][:, order])
    causal = torch.ones(K, K, dtype=torch.bool).tril().expand(B, -1, -1)
    changed = inputs.clone()
    changed[:, -1] += 1
    before, after = layer(inputs, mask=causal)[0], layer(changed, mask=causal)[0]
    assert torch.equal(before[:, :-1], after[:, :-1]) and not torch.allclose(before[:, -1], after[:, -1])


def test_hard_choices_follow_the_weights() -> None:
    scores, values = random(B, Q, K).requires_grad_(), random(B, K, D)
    weights = attention_weights(scores, MASK).detach()
    draws = 4000
    uniform = torch.rand(draws, B, Q, dtype=torch.float64)
    counts = torch.zeros(B, Q, K, dtype=torch.float64)
    for numbers in uniform:
        _, chosen, _ = attend_hard(scores.detach(), values, MASK, numbers)
        counts += F.one_hot(chosen, K)
    assert not counts[~MASK[:, None].expand(-1, Q, -1)].any()
    assert ((counts / draws - weights).abs() < 4 * (weights * (1 - weights) / draws).sqrt() + 1e-9).all()
    picked, chosen, log_probability = attend_hard(scores, values, MASK)
    assert torch.equal(chosen, weights.argmax(dim=2))
    torch.testing.assert_close(log_probability.exp(), weights.amax(dim=2))
    torch.testing.assert_close(picked[1, 2], values[1, chosen[1, 2]])
    assert torch.autograd.grad(log_probability.sum(), scores)[0].abs().sum() > 0


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="3 heads do not divide 8 features"):
        MultiHeadAttention(8, 3)
    with pytest.raises(ValueError, match="one size, not 3 and 4"):
        make_score("dot", 3, 4, 5)
    scaled, plain = (make_score(name, D, D, 1)(random(1, 1, D) * 0 + 1, random(1, 1, D) * 0 + 1)
                     for name in ("scaled_dot", "dot"))  # fmt: skip
    assert float(plain) == D and float(scaled) == D / math.sqrt(D)
