"""The COCO metric of masks where it can be told by hand."""

from __future__ import annotations

import sys

import pytest
import torch

from rayloom.errors import UserError
from rayloom_supervised.metrics.coco import mask_average_precision


def _masks(*columns: tuple[int, int]) -> torch.Tensor:
    """Return one image's masks [1, D, 10, 10], each from one column to another."""
    masks = torch.zeros(1, len(columns), 10, 10)
    for number, (first, last) in enumerate(columns):
        masks[0, number, :, first:last] = 1
    return masks


def test_true_masks_are_found_and_half_of_a_mask_is_no_mask() -> None:
    pytest.importorskip("pycocotools")
    true, label = _masks((0, 4), (5, 10)), torch.tensor([[1, 2]])
    perfect = mask_average_precision(true, torch.tensor([[0.9, 0.8]]), label, true, label)
    assert perfect == pytest.approx((1.0, 1.0, 1.0))
    # Of the first 3 of 4 columns are found, an overlap of 0.75 (six of ten thresholds), and nothing of the second.
    found = mask_average_precision(
        _masks((0, 3), (0, 0)), torch.tensor([[0.9, 0.0]]), torch.tensor([[1, 0]]), true, label
    )
    assert found == pytest.approx((0.3, 0.5, 0.5))
    assert mask_average_precision(true, torch.zeros(1, 2), torch.zeros(1, 2).long(), true, label) == (0.0, 0.0, 0.0)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    true, label = _masks((0, 4)), torch.tensor([[1]])
    with pytest.raises(UserError, match=r"pip install 'rayloom\[detection\]'"):
        mask_average_precision(true, torch.ones(1, 1), label, true, label)
