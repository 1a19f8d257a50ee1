"""Boxes [..., 4] as left, top, right and bottom in pixels: overlap, regression targets, suppression, RoIAlign."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_SCALE = (0.1, 0.1, 0.2, 0.2)
_LARGEST = 4.0


def overlaps(ours: Tensor, theirs: Tensor) -> Tensor:
    """Return intersection over union [..., N, M] of boxes [..., N, 4] and [..., M, 4]; 0 for empty ones."""
    first, second = ours.unsqueeze(-2), theirs.unsqueeze(-3)
    low, high = torch.maximum(first[..., :2], second[..., :2]), torch.minimum(first[..., 2:], second[..., 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    areas = (first[..., 2:] - first[..., :2]).prod(-1) + (second[..., 2:] - second[..., :2]).prod(-1)
    return shared / (areas - shared).clamp(min=1e-9)


def encoded(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Return how boxes [..., 4] lie to anchors [..., 4]: offsets of the middles, as shares of the anchor's sides, and
    logarithms of the ratios of sides (Girshick et al. 2014, appendix C), divided by their usual sizes."""
    middle, sides = _middle_and_sides(boxes)
    from_middle, from_sides = _middle_and_sides(anchors)
    change = torch.cat(((middle - from_middle) / from_sides, (sides / from_sides).clamp(min=1e-6).log()), -1)
    return change / change.new_tensor(_SCALE)


def decoded(change: Tensor, anchors: Tensor) -> Tensor:
    """Return the boxes of which `encoded` is `change`; no side changes by more than e^4."""
    change = change * change.new_tensor(_SCALE)
    middle, sides = _middle_and_sides(anchors)
    middle = middle + change[..., :2] * sides
    half = sides * change[..., 2:].clamp(max=_LARGEST).exp() / 2
    return torch.cat((middle - half, middle + half), -1)


def _middle_and_sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    return (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-3)


def unsuppressed(boxes: Tensor, threshold: float) -> Tensor:
    """Return which of boxes [B, N, 4], best first, stay [B, N] (bool): those that overlap no better one that stays by
    more than `threshold` (non-maximum suppression)."""
    covering = overlaps(boxes, boxes) > threshold
    stays = torch.ones(boxes.shape[:2], dtype=torch.bool, device=boxes.device)
    for number in range(1, boxes.shape[1]):
        stays[:, number] = ~(covering[:, number, :number] & stays[:, :number]).any(1)
    return stays


def places_in(boxes: Tensor, size: int, height: int, width: int) -> Tensor:
    """Return the middles of size x size bins of boxes [B, R, 4], as `grid_sample` wants them: [B, R, size, size, 2], x
    and y from -1 to 1 over a picture of these sides."""
    steps = (torch.arange(size, device=boxes.device, dtype=boxes.dtype) + 0.5) / size
    x = boxes[..., 0:1] + steps * (boxes[..., 2:3] - boxes[..., 0:1])
    y = boxes[..., 1:2] + steps * (boxes[..., 3:4] - boxes[..., 1:2])
    x, y = 2 * x / width - 1, 2 * y / height - 1
    across = x.unsqueeze(-2).expand(*x.shape[:2], size, size)
    return torch.stack((across, y.unsqueeze(-1).expand_as(across)), -1)


def roi_align(features: Tensor, boxes: Tensor, size: int, height: int, width: int) -> Tensor:
    """Return the features [B, R, C, size, size] inside boxes [B, R, 4] of pictures with these sides.

    Each bin is the mean of 2 x 2 places that are interpolated between the four nearest features [B, C, H, W], without
    rounding (He et al. 2017, "Mask R-CNN", section 3).
    """
    batch, count = boxes.shape[:2]
    grid = places_in(boxes, 2 * size, height, width).view(batch, -1, 2 * size, 2)
    sampled = F.grid_sample(features, grid, padding_mode="border", align_corners=False)
    pooled = F.avg_pool2d(sampled, 2)
    return pooled.view(batch, features.shape[1], count, size, size).transpose(1, 2)
