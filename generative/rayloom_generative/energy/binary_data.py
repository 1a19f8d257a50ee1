"""What machines of bits read: images or points whose numbers lie between 0 and 1, as bits."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rayloom.contract import Noise, Table, UserError
from rayloom_generative.fields import unit_range

Binarize = Literal["dynamic", "threshold"]


def bits(data: Tensor, binarize: Binarize, noise: Noise) -> Tensor:
    """Return raw examples [B, ...] as flat bits [B, D]: drawn with the grey value as probability, or above one half."""
    grey = unit_range(data).flatten(1)
    return noise.bernoulli(grey) if binarize == "dynamic" else (grey > 0.5).float()


def mean_bits(data: Table, field: str, binarize: Binarize) -> Tensor:
    """Return the mean of every bit over the rows, [D]; UserError for numbers outside 0..1."""
    total, rows = torch.zeros((), dtype=torch.float64), 0
    for batch in data.batches(1000):
        grey = unit_range(batch[field]).flatten(1)
        if float(grey.min()) < 0 or float(grey.max()) > 1:
            raise UserError(f"source.dataset: the numbers of {field} must lie in 0..1 to be bits; scale them")
        total = total + (grey if binarize == "dynamic" else (grey > 0.5)).double().sum(0)
        rows += len(grey)
    return (total / rows).float()
