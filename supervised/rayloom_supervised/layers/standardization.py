"""Columns of a table with mean 0 and standard deviation 1, by what the training rows hold."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rayloom.contract import Table

_CHUNK = 8192


class StandardizeColumns(nn.Module):
    """Maps rows [B, D] to (row - mean) / deviation; the statistics are buffers, so that a deployed model has them."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(columns))
        self.register_buffer("deviation", torch.ones(columns))

    @torch.no_grad()
    def fit(self, data: Table, field: str) -> None:
        """Take mean and standard deviation [D] of a field over all rows; a constant column keeps the deviation 1."""
        count, total = 0, torch.zeros(self.mean.shape, dtype=torch.float64)
        for batch in data.batches(_CHUNK):
            rows = batch[field].reshape(len(batch[field]), -1).double()
            count, total = count + len(rows), total + rows.sum(0)
        mean, squares = total / count, torch.zeros_like(total)
        for batch in data.batches(_CHUNK):  # again, since the mean of squares would lose digits
            squares += (batch[field].reshape(len(batch[field]), -1).double() - mean).square().sum(0)
        deviation = (squares / count).sqrt()
        self.mean.copy_(mean)
        self.deviation.copy_(torch.where(deviation > 0, deviation, 1.0))

    def forward(self, rows: Tensor) -> Tensor:
        """Return the standardised rows [B, D] in float32."""
        return (rows.to(torch.float32) - self.mean) / self.deviation
