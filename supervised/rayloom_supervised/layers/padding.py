"""Sequences of unequal length in one tensor: which places are real."""

from __future__ import annotations

import torch
from torch import Tensor


def inside(lengths: Tensor, longest: int) -> Tensor:
    """Return whether each place of sequences of `lengths` [B], padded to `longest`, is real: bool [B, longest]."""
    return torch.arange(longest, device=lengths.device) < lengths[:, None]


def last_real(states: Tensor, lengths: Tensor) -> Tensor:
    """Return the last real state [B, F] of each sequence of `states` [B, T, F]."""
    places = (lengths - 1).clamp(min=0)[:, None, None].expand(-1, 1, states.shape[2])
    return states.gather(1, places).squeeze(1)


def turned(sequences: Tensor, lengths: Tensor | None) -> Tensor:
    """Return sequences [B, T, F] from their last real place to their first; padding stays at the end."""
    if lengths is None:
        return sequences.flip(1)
    places = torch.arange(sequences.shape[1], device=sequences.device)
    order = torch.where(inside(lengths, len(places)), lengths[:, None] - 1 - places, places)
    return sequences.gather(1, order[:, :, None].expand(-1, -1, sequences.shape[2]))
