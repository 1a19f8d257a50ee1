"""What machines of bits show: filters, and Gibbs chains over time."""

from __future__ import annotations

import torch
from torch import Tensor

from rayloom.contract import Figure

_FILTERS = 64


def filters(weight: Tensor, shape: tuple[int, ...]) -> Figure:
    """Return the weights [D, H] of hidden units to inputs of `shape`: the 64 strongest; grey is 0."""
    strongest = weight.norm(dim=0).argsort(descending=True)[:_FILTERS]
    chosen = weight[:, strongest].T
    scaled = 0.5 + chosen / (2 * chosen.abs().amax(1, keepdim=True).clamp(min=1e-12))
    if len(shape) == 3 and shape[0] in (1, 3):
        return Figure("images", scaled.reshape(-1, *shape))
    return Figure("matrix", chosen)


def chains_over_time(states: list[Tensor], shape: tuple[int, ...]) -> Figure:
    """Return images: each row is one chain, its states [chains, D] at several times from left to right."""
    return Figure("images", torch.stack(states, 1).flatten(0, 1).reshape(-1, *shape), columns=len(states))
