"""Edit distance by all alignments, perplexity and bits by hand."""

from __future__ import annotations

import functools
import math
import random
import sys

import pytest
import torch

from rayloom.contract import UserError
from rayloom_supervised.metrics.sequences import (
    bits,
    bleu,
    by_length,
    edit_distance,
    edit_distances,
    exact_matches,
    perplexity,
    rows_of,
)


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


def test_the_library_and_our_own_count_the_same_edits() -> None:
    pytest.importorskip("rapidfuzz")
    choose = random.Random(1)
    pairs = [tuple(choose.choices(range(300), k=choose.randrange(30)) for _ in range(2)) for _ in range(50)]
    pairs += [(one, one[3:] + one[:3]) for one, _ in pairs]
    ours = [edit_distance(*pair) for pair in pairs]
    assert edit_distances([one for one, _ in pairs], [other for _, other in pairs]).tolist() == ours


def test_bleu_of_what_is_right_is_100_and_needs_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sacrebleu")
    true = ["\u65e0\u6cd5\u6253\u5f00\u6587\u4ef6", "\u6587\u4ef6\u4e0d\u5b58\u5728"]
    assert bleu(true, true, "zh") == pytest.approx(100) and bleu(["a", "b"], true, "zh") < 1
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(UserError, match=r"algorithm\.bleu: .*pip install 'rayloom\[text\]'"):
        bleu(true, true, "zh")


def test_a_rate_by_length_is_that_of_all_elements_of_a_length() -> None:
    curve = by_length(torch.tensor([1.0, 2, 3]), torch.tensor([2.0, 8, 4]), torch.tensor([5, 7, 5]), "error")
    assert curve.x is not None and curve.x.tolist() == [5, 7] and curve.data is not None
    torch.testing.assert_close(curve.data, torch.tensor([[4 / 6, 1 / 4]]))
