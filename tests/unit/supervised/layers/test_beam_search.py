"""Beam search against all sequences written out."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from rayloom_supervised.layers.beam_search import beam_search

V, STEPS, PADDING, BEGIN, END = 4, 3, 0, 1, 2


def table(seed: int) -> Tensor:
    """Return the log-probabilities [B, V, V] of what follows each token in two languages; no padding follows."""
    scores = torch.randn(2, V, V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    scores[:, :, PADDING] = -torch.inf
    return torch.log_softmax(scores, dim=2)


def search(following: Tensor, width: int) -> tuple[Tensor, Tensor]:
    def step(token: Tensor, language: Tensor) -> tuple[Tensor, Tensor]:
        return following[language, token], language

    begin = torch.full((2,), BEGIN)
    return beam_search(
        step, lambda state, rows: state[rows], torch.arange(2), begin, STEPS, width, end=END, padding=PADDING
    )


def by_enumeration(following: Tensor) -> tuple[list[int], float]:
    found: dict[tuple[int, ...], float] = {}
    for tokens in itertools.product(range(1, V), repeat=STEPS):
        total, before, kept = 0.0, BEGIN, []
        for token in tokens:
            total += float(following[before, token])
            kept.append(token)
            before = token
            if token == END:
                break
        found[(*kept, *[PADDING] * (STEPS - len(kept)))] = total
    best = max(found, key=lambda tokens: found[tokens])
    return list(best), found[best]


@pytest.mark.parametrize("seed", range(6))
def test_a_wide_beam_is_exact(seed: int) -> None:
    following = table(seed)
    written, scores = search(following, V**STEPS)
    for row in range(2):
        tokens, score = by_enumeration(following[row])
        assert written[row].tolist() == tokens and float(scores[row]) == pytest.approx(score)


def test_a_narrow_beam_is_greedy_and_not_better() -> None:
    worse = 0
    for seed in range(20):
        following = table(seed)
        written, scores = search(following, 1)
        for row in range(2):
            before, tokens = BEGIN, []
            for _ in range(STEPS):
                before = PADDING if before in (END, PADDING) else int(following[row, before].argmax())
                tokens.append(before)
            assert written[row].tolist() == tokens
        worse += int((scores < search(following, 64)[1] - 1e-9).sum())
    assert worse > 0
