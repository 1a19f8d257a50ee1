"""Counts of n-grams with Kneser and Ney's smoothing: by hand, and as probabilities."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from rayloom_supervised.metrics.kneser_ney import KneserNey

A, B, C, BEGIN = 0, 1, 2, 3


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_the_probabilities_after_any_context_are_a_distribution(order: int) -> None:
    chance = random.Random(0)
    rows = [[min(chance.randrange(5), 3) for _ in range(chance.randrange(1, 9))] for _ in range(30)]
    model = KneserNey(rows, order, 6, begin=5)
    for before in itertools.product(range(6), repeat=order - 1):  # seen and unseen ones
        found = [model.probability(token, before) for token in range(6)]
        assert sum(found) == pytest.approx(1) and min(found) > 0


def test_pairs_by_hand() -> None:
    """Rows a b, a b, a c, b b: once were seen (a c), (begin b), (b b); twice (a b); three times (begin a)."""
    model = KneserNey([[A, B], [A, B], [A, C], [B, B]], 2, 4, begin=BEGIN)
    discount = 3 / (3 + 2 * 1)
    # Different tokens before: a 1 (begin), b 3 (a, begin, b), c 1 (a): five pairs, D = 2 / (2 + 0) = 1.
    below = {A: (0 + 3 / 4) / 5, B: (2 + 3 / 4) / 5, C: (0 + 3 / 4) / 5, BEGIN: 3 / 4 / 5}
    counts = {A: 0, B: 2, C: 1}
    after_a = {token: (max(count - discount, 0) + 2 * discount * below[token]) / 3 for token, count in counts.items()}
    for token, wanted in after_a.items():
        assert model.probability(token, [A]) == pytest.approx(wanted)
    assert model.probability(B, [C]) == pytest.approx(below[B])  # nothing was seen after c
    first = (3 - discount + 2 * discount * below[A]) / 4
    assert model.nats([A, B]) == pytest.approx(-math.log(first) - math.log(after_a[B]))


def test_a_token_after_one_word_alone_is_not_expected_elsewhere() -> None:
    """The example of Chen and Goodman: "Francisco" is frequent, but follows "San" only."""
    san, francisco, others = 0, 1, range(2, 8)
    rows = [[san, francisco]] * 50 + [[one, other] for one in others for other in others if one != other]
    model = KneserNey(rows, 2, 9, begin=8)
    assert model.probability(francisco, [2]) < model.probability(3, [8])
    assert model.probability(francisco, [san]) > 0.9
