"""Boxes against plain loops: overlap, regression targets, suppression, RoIAlign."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rayloom_supervised.layers.boxes import decoded, encoded, overlaps, places_in, roi_align, unsuppressed


def _boxes(batch: int, count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    low = 20 * torch.rand(batch, count, 2, generator=generator)
    return torch.cat((low, low + 1 + 10 * torch.rand(batch, count, 2, generator=generator)), -1)


def test_overlaps_by_hand() -> None:
    ours = torch.tensor([[0.0, 0.0, 4.0, 2.0], [10.0, 10.0, 11.0, 11.0]])
    theirs = torch.tensor([[2.0, 0.0, 6.0, 2.0], [0.0, 0.0, 4.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(overlaps(ours, theirs), torch.tensor([[4 / 12, 1.0, 0.0], [0.0, 0.0, 0.0]]))


def test_changes_lead_from_anchors_to_boxes() -> None:
    boxes, anchors = _boxes(2, 5), _boxes(2, 5, seed=1)
    torch.testing.assert_close(decoded(encoded(boxes, anchors), anchors), boxes, rtol=1e-4, atol=1e-4)
    change = encoded(torch.tensor([0.0, 0.0, 4.0, 8.0]), torch.tensor([1.0, 2.0, 5.0, 6.0]))
    torch.testing.assert_close(change, torch.tensor([-2.5, 0.0, 0.0, 5 * float(np.log(2))]))


def test_suppression_is_that_of_a_plain_loop() -> None:
    boxes = _boxes(3, 30)
    stays = unsuppressed(boxes, 0.3)
    for row in range(3):
        kept: list[int] = []
        for number in range(30):
            shared = overlaps(boxes[row, [number]], boxes[row, kept]) if kept else torch.zeros(1, 1)
            if float(shared.max()) <= 0.3:
                kept.append(number)
        assert stays[row].nonzero().flatten().tolist() == kept
    assert 3 < int(stays[0].sum()) < 30


def _nearest_four(features: np.ndarray, x: float, y: float) -> np.ndarray:
    """Interpolate features [C, H, W] between the middles of the four nearest places; the border goes on outside."""
    height, width = features.shape[1:]
    x, y = np.clip(x - 0.5, 0, width - 1), np.clip(y - 0.5, 0, height - 1)
    left, top = int(x), int(y)
    right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
    across, down = x - left, y - top
    upper = features[:, top, left] * (1 - across) + features[:, top, right] * across
    lower = features[:, bottom, left] * (1 - across) + features[:, bottom, right] * across
    return np.asarray(upper * (1 - down) + lower * down)


def test_roi_align_is_that_of_a_plain_loop() -> None:
    features = torch.randn(2, 3, 8, 10, generator=torch.Generator().manual_seed(2))
    boxes, size = _boxes(2, 2), 3  # in a picture of 32 x 40 pixels, four for each place
    found = roi_align(features, boxes, size, 32, 40).numpy()
    assert found.shape == (2, 2, 3, size, size)
    for row, box, down, right in np.ndindex(2, 2, size, size):
        left, top, far, low = (boxes[row, box] / 4).tolist()
        places = [
            _nearest_four(
                features[row].numpy(),
                left + (right + 0.25 + 0.5 * i) * (far - left) / size,
                top + (down + 0.25 + 0.5 * j) * (low - top) / size,
            )
            for i in range(2)
            for j in range(2)
        ]
        np.testing.assert_allclose(found[row, box, :, down, right], np.mean(places, 0), rtol=1e-4, atol=1e-5)


def test_places_are_the_middles_of_bins() -> None:
    places = places_in(torch.tensor([[[8.0, 0.0, 16.0, 4.0]]]), 2, 8, 16)
    assert places[0, 0, :, :, 0].tolist() == [pytest.approx([0.25, 0.75])] * 2
    assert places[0, 0, :, 0, 1].tolist() == pytest.approx([-0.75, -0.25])
