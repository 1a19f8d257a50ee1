"""Examples as vectors in double precision, and a sample of them to begin with."""

from __future__ import annotations

import torch
from torch import Tensor

from rayloom.contract import Table, UserError
from rayloom_generative.fields import unit_range


def vectors(data: Tensor) -> Tensor:
    """Return images in 0..1 or points [B, ...] as [B, D] in float64."""
    return unit_range(data).flatten(1).double()


def some_rows(data: Table, field: str, most: int, least: int) -> Tensor:
    """Return at most `most` rows of the training data, evenly spread, [M, D]; UserError for fewer than `least`."""
    if len(data) < least:
        raise UserError(f"algorithm: {least} components need as many examples, and there are {len(data)}; take fewer")
    chosen = torch.linspace(0, len(data) - 1, min(most, len(data)), dtype=torch.float64).long()
    return vectors(data.rows(chosen)[field])
