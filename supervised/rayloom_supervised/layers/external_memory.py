"""The memory of a neural Turing machine (Graves, Wayne and Danihelka 2014): addressing, reading, writing.

Memories are [B, N, M], weightings over their N places [B, N]; the numbers are the paper's equations.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SMALL = 1e-8


def content_weights(memory: Tensor, key: Tensor, strength: Tensor) -> Tensor:
    """Return the softmax of `strength` [B, 1] times the cosine similarity with `key` [B, M] (5, 6)."""
    similarity = F.cosine_similarity(memory, key[:, None], dim=2, eps=_SMALL)
    return torch.softmax(strength * similarity, dim=1)


def interpolate(content: Tensor, last: Tensor, gate: Tensor) -> Tensor:
    """Return gate * content + (1 - gate) * last (7); `gate` [B, 1]."""
    return gate * content + (1 - gate) * last


def shift(weights: Tensor, shifts: Tensor) -> Tensor:
    """Return the circular convolution with `shifts` [B, 2 r + 1] over the moves -r to r (8)."""
    reach = shifts.shape[1] // 2
    moved = torch.stack([weights.roll(step, dims=1) for step in range(-reach, reach + 1)], dim=2)
    return (moved @ shifts[:, :, None]).squeeze(2)


def sharpen(weights: Tensor, power: Tensor) -> Tensor:
    """Return the weights to a `power` [B, 1] of at least 1, normalised (9)."""
    powered = (weights + _SMALL) ** power
    return powered / powered.sum(dim=1, keepdim=True)


def read(memory: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean [B, M] of the places (2)."""
    return (weights[:, None] @ memory).squeeze(1)


def write(memory: Tensor, weights: Tensor, erase: Tensor, add: Tensor) -> Tensor:
    """Return the memory after `erase` [B, M] in 0..1 and `add` [B, M] at the places of `weights` (3, 4)."""
    where = weights[:, :, None]
    return memory * (1 - where * erase[:, None]) + where * add[:, None]


class Head(nn.Module):
    """Where a controller's output moves a weighting: content, gate, shift, sharpening (figure 2 of the paper)."""

    def __init__(self, inputs: int, width: int, reach: int = 1) -> None:
        """Address places of `width` numbers, moving by at most `reach` places."""
        super().__init__()
        self.sizes = [width, 1, 1, 2 * reach + 1, 1]
        self.emit = nn.Linear(inputs, sum(self.sizes))

    def forward(self, controller: Tensor, memory: Tensor, last: Tensor) -> Tensor:
        """Return the weighting [B, N] after the one `last` [B, N]."""
        key, strength, gate, shifts, power = self.emit(controller).split(self.sizes, dim=1)
        content = content_weights(memory, torch.tanh(key), F.softplus(strength))
        mixed = interpolate(content, last, torch.sigmoid(gate))
        return sharpen(shift(mixed, torch.softmax(shifts, dim=1)), 1 + F.softplus(power))
