"""Figures are checked when they are made: one sentence for what does not fit."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch

from figure_cases import figures
from rayloom.contract import Figure
from rayloom.contract.figures import FigureKind
from rayloom.errors import UserError

ONES = torch.ones


def test_there_is_a_case_of_every_kind() -> None:
    assert {figure.kind for figure in figures().values()} == set(get_args(FigureKind))


@pytest.mark.parametrize(
    ("kind", "parts", "sentence"),
    [
        ("picture", {"data": ONES(1, 1)}, "there is no figure of kind 'picture'; the kinds are images, matrix, "),
        ("images", {}, "a figure of kind images needs data [M, 1 or 3, H, W], not []"),
        ("images", {"data": ONES(8, 8)}, "a figure of kind images needs data [M, 1 or 3, H, W], not [8, 8]"),
        ("images", {"data": ONES(1, 2, 8, 8)}, "needs data [M, 1 or 3, H, W], not [1, 2, 8, 8]"),
        ("images", {"data": ONES(0, 1, 8, 8)}, "needs data [M, 1 or 3, H, W], not [0, 1, 8, 8]"),
        ("images", {"data": ONES(2, 1, 8, 8), "labels": ("a",)}, "needs 2 labels, one for each of its images, not 1"),
        ("animation", {"data": ONES(3, 8, 8)}, "needs data [T, 1 or 3, H, W], not [3, 8, 8]"),
        ("matrix", {"data": ONES(3, 3), "animate": True}, "a figure of kind matrix needs no animate, which images and"),
        ("matrix", {"data": ONES(3)}, "a figure of kind matrix needs data [R, C], not [3]"),
        ("matrix", {"data": ONES(2, 3), "labels": ("a",)}, "needs 2 labels, one for each of its rows, not 1"),
        (
            "matrix",
            {"data": ONES(2, 3), "labels": ("a", "b"), "column_labels": ("a", "b")},
            "needs 3 column_labels, one for each of its columns, not 2",
        ),
        ("table", {"data": ONES(2, 3), "column_labels": ("a",)}, "a figure of kind table needs 3 column_labels"),
        ("points", {"data": ONES(4, 3)}, "a figure of kind points needs data [M, 2], not [4, 3]"),
        ("points", {"data": ONES(4, 2), "reference": ONES(4)}, "needs reference [M', 2], not [4]"),
        (
            "points",
            {"data": ONES(4, 2), "groups": ONES(4)},
            "groups [4] of whole numbers from 0, not torch.float32 [4]",
        ),
        ("points", {"data": ONES(2, 2), "groups": torch.tensor([0])}, "groups [2] of whole numbers from 0, not"),
        ("points", {"data": ONES(2, 2), "groups": torch.tensor([0, -1])}, "groups [2] of whole numbers from 0, not"),
        (
            "points",
            {"data": ONES(2, 2), "groups": torch.tensor([0, 2]), "labels": ("a", "b")},
            "needs 3 labels, one for each group, not 2",
        ),
        ("curves", {"data": ONES(5)}, "a figure of kind curves needs data [K, P], not [5]"),
        ("curves", {"data": ONES(2, 5), "labels": ("a",)}, "needs 2 labels, one for each of its rows of data, not 1"),
        ("curves", {"data": ONES(2, 5), "x": ONES(4)}, "needs no x, or curves with x [5]"),
        ("histogram", {"data": ONES(5)}, "a figure of kind histogram needs data [K, M], not [5]"),
        ("histogram", {"data": ONES(1, 5), "x": ONES(5)}, "needs no x, or curves with x [5]"),
        ("text", {}, "a figure of kind text needs a text, and no data"),
        ("text", {"text": "a", "data": ONES(1)}, "a figure of kind text needs a text, and no data"),
    ],
)
def test_what_does_not_fit_is_one_sentence(kind: Any, parts: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        Figure(kind, **parts)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)
