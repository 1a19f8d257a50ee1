"""Pictures of what a pen writes."""

from __future__ import annotations

import torch
from torch import Tensor

from rayloom_supervised.layers.padding import inside


def draw_strokes(offsets: Tensor, pen: Tensor, lengths: Tensor, side: int, extent: float, width: float = 1.6) -> Tensor:
    """Return pictures [B, 1, side, side] in 0..1 of what is written on a square of `extent` about the first place.

    `offsets` [B, L, 2]: steps from point to point, to the right and downwards, the first one from the square's middle;
    `pen` [B, L]: 0 where a line leads from a point to the next one; `lengths` [B]: points. Lines are `width` pixels
    wide and end round; their edges are one pixel soft.
    """
    real = inside(lengths, offsets.shape[1])
    points = offsets.masked_fill(~real[:, :, None], 0).cumsum(dim=1) * (side / extent) + (side - 1) / 2
    places = torch.arange(side, device=offsets.device, dtype=offsets.dtype)
    pixels = torch.stack(torch.meshgrid(places, places, indexing="xy"), dim=2).view(1, side * side, 2)
    ink = offsets.new_zeros(len(offsets), side * side)
    lines = (pen[:, :-1] == 0) & real[:, 1:]
    for time in range(offsets.shape[1]):
        # A point by itself is a line without length.
        begin = points[:, time - 1 if time else 0, None]
        drawn = lines[:, time - 1, None, None] if time else torch.zeros_like(real[:, :1, None])
        end = points[:, time, None]
        way = torch.where(drawn, end - begin, 0)
        share = ((pixels - end + way) * way).sum(dim=2) / way.square().sum(dim=2).clamp_min(1e-12)
        nearest = end - way * (1 - share.clamp(0, 1))[:, :, None]
        found = (0.5 + width / 2 - (pixels - nearest).norm(dim=2)).clamp(0, 1)
        ink = torch.maximum(ink, found * real[:, time, None])
    return ink.view(-1, 1, side, side)
