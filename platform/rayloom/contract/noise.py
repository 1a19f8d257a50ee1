"""Random numbers of losses and of `prepare` that do not depend on the number of learners.

The engine draws them for the whole global batch, at the address (seed, update, phase, repetition, call), and hands each
learner the rows of its examples: K learners repeat one learner's update, and a resume needs no generator.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Noise(Protocol):
    """Draws tensors [B, *shape] for the B = `rows` examples of the batch at hand, on the algorithm's device."""

    def normal(self, rows: int, *shape: int) -> Tensor:
        """Return independent standard normal numbers, float32."""

    def uniform(self, rows: int, *shape: int) -> Tensor:
        """Return independent numbers, uniform in [0, 1), float32."""

    def bernoulli(self, probability: Tensor) -> Tensor:
        """Return 0 or 1 for each element of `probability` [B, ...], in its type."""

    def permutation(self, rows: int) -> Tensor:
        """Return an order of the B examples at hand, int64 [B]: a permutation of those of each learner by itself."""


class GlobalNoise:
    """Noise from torch's global generators: what an algorithm has outside a learner (a notebook, a unit test)."""

    def __init__(self, device: torch.device | None = None) -> None:
        self._device = device

    def normal(self, rows: int, *shape: int) -> Tensor:
        """Return independent standard normal numbers."""
        return torch.randn(rows, *shape, device=self._device)

    def uniform(self, rows: int, *shape: int) -> Tensor:
        """Return independent numbers, uniform in [0, 1)."""
        return torch.rand(rows, *shape, device=self._device)

    def bernoulli(self, probability: Tensor) -> Tensor:
        """Return 0 or 1 for each element of `probability`."""
        return torch.bernoulli(probability)

    def permutation(self, rows: int) -> Tensor:
        """Return a random order of the examples."""
        return torch.randperm(rows, device=self._device)
