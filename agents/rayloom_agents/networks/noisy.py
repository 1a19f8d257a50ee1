"""Linear layers that explore by themselves: Fortunato et al. 2018, arXiv 1706.10295, with factorised noise.

Departure from the paper: every example of a batch has noise of its own, not the whole batch one, which lowers the
variance of the gradient. It costs no matrix for each example: with w = mu + sigma * (f(e_out) f(e_in)^T) the product is

    w x = mu x + f(e_out) * (sigma (f(e_in) * x))
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

Draw = Callable[[int, int], Tensor]
"""Returns standard normal numbers [rows, size]."""


def signed_root(noise: Tensor) -> Tensor:
    """Return f(e) = sign(e) sqrt|e| (equation 10)."""
    return noise.sign() * noise.abs().sqrt()


class NoisyLinear(nn.Module):
    """An affine map with learnt noise on weights and biases; without `draw` there is no noise: [B, I] -> [B, O]."""

    def __init__(self, inputs: int, outputs: int, deviation: float = 0.5) -> None:
        """Begin with noise of `deviation` / sqrt(inputs) (section 3.2)."""
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))
        self.weight_deviation = nn.Parameter(torch.full((outputs, inputs), deviation * bound))
        self.bias_deviation = nn.Parameter(torch.full((outputs,), deviation * bound))

    def forward(self, rows: Tensor, draw: Draw | None = None) -> Tensor:
        """Return the outputs of the rows."""
        found = nn.functional.linear(rows, self.weight, self.bias)
        if draw is None:
            return found
        noise = signed_root(draw(len(rows), rows.shape[1] + len(self.bias)))
        before, after = noise[:, : rows.shape[1]], noise[:, rows.shape[1] :]
        moved = nn.functional.linear(before * rows, self.weight_deviation)
        return found + after * (moved + self.bias_deviation)
