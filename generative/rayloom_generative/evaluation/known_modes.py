"""The modes of generated data sets whose distribution is known."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from rayloom.datasets.gaussian import GridConfig, RingConfig, grid_centers, ring_centers

KnownModes = Literal["none", "gaussian-grid", "gaussian-ring"]


def known_modes(name: KnownModes) -> tuple[Tensor | None, float]:
    """Return the modes [M, 2] of a generated data set with its default settings and their standard deviation."""
    if name == "gaussian-grid":
        grid = GridConfig()
        return grid_centers(grid), grid.standard_deviation * grid.scale
    if name == "gaussian-ring":
        ring = RingConfig()
        return ring_centers(ring), ring.standard_deviation * ring.scale
    return None, 0.0
