"""Edit distance by all alignments, perplexity and bits by hand."""

from __future__ import annotations

import functools
import math
import random

import pytest
import torch

from rayloom_supervised.metrics.sequences import bits, edit_distance, edit_distances, exact_matches, perplexity, rows_of


@functools.cache
def by_definition(first: str, second: str) -> int:
    if not first or not second:
        return len(first) + len(second)
    change = by_definition(first[1:], second[1:]) + (first[0] != second[0])
    return min(change, by_definition(first[1:], second) + 1, by_definition(first, second[1:]) + 1)


def test_the_edit_distance_is_the_least_number_of_edits() -> None:
    choose = random.Random(0)
    for _ in range(200):
        first, second = ("".join(choose.choices("abc", k=choose.randrange(7))) for _ in range(2))
        assert edit_distance(first, second) == by_definition(first, second) == edit_distance(second, first)
    assert edit_distance("kitten", "sitting") == 3 and edit_distance("", "ab") == 2 and edit_distance("", "") == 0


def test_pairs_are_judged_one_by_one() -> None:
    written, true = [[1, 2], [3], []], [[1, 2], [4, 3], []]
    assert edit_distances(written, true).tolist() == [0, 1, 0] and exact_matches(written, true).tolist() == [1, 0, 1]
    assert rows_of(torch.tensor([[1, 2], [3, 0]]), torch.tensor([2, 1])) == [[1, 2], [3]]


def test_perplexity_is_of_all_tokens() -> None:
    nats, count = torch.tensor([2 * math.log(4), 6 * math.log(2)]), torch.tensor([2, 6])
    assert float(perplexity(nats, count)) == pytest.approx(math.exp((2 * math.log(4) + 6 * math.log(2)) / 8))
    assert float(bits(torch.tensor(math.log(8)))) == pytest.approx(3)
