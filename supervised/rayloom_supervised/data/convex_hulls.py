"""Points in the plane and the corners of their convex hull, in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor

from rayloom.contract import component
from rayloom.datasets import Dataset
from rayloom_supervised.data.ragged import SizeConfig, ragged_dataset

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class ConvexHullsConfig(SizeConfig):
    """Random points in the unit square and which of them are corners of their convex hull, generated."""

    fewest: Annotated[int, Ge(3)] = 5
    """Fewest points."""
    most: Annotated[int, Ge(3), Le(10_000)] = 10
    """Most points."""
    test_points: Annotated[int, Ge(3), Le(10_000)] | None = None
    """Points of every test example: more than were trained on show how a network generalises; null: as the others."""

    def __post_init__(self) -> None:
        """Refuse numbers in the wrong order."""
        if self.fewest > self.most:
            raise ValueError("most: make it at least fewest")


def convex_hull(points: Sequence[Point]) -> list[int]:
    """Return the numbers of the hull's corners, counter-clockwise from the smallest number (Andrew 1979)."""
    order = sorted(range(len(points)), key=lambda number: points[number])
    chains = []
    for numbers in (order, order[::-1]):
        chain: list[int] = []
        for number in numbers:
            while len(chain) > 1 and _turn(points[chain[-2]], points[chain[-1]], points[number]) <= 0:
                chain.pop()
            chain.append(number)
        chains.append(chain[:-1])
    hull = chains[0] + chains[1]
    first = hull.index(min(hull))
    return hull[first:] + hull[:first]


def _turn(first: Point, second: Point, third: Point) -> float:
    """Return a positive number where three points turn to the left."""
    return (second[0] - first[0]) * (third[1] - first[1]) - (second[1] - first[1]) * (third[0] - first[0])


@component("data set", ConvexHullsConfig)
def convex_hulls(config: ConvexHullsConfig, seed: int) -> Dataset:
    """Return `source` float32 [L, 2] and `target` int64 [corners + 1], both ragged (Vinyals et al. 2015).

    A target names points by their place from 1 and ends with 0; it starts at the corner that stands first.
    """
    chance = torch.Generator().manual_seed(seed)
    sources: list[Tensor] = []
    targets: list[Tensor] = []
    for number in range(config.total):
        count = int(torch.randint(config.fewest, config.most + 1, (), generator=chance))
        if config.test_points is not None and number >= config.train_size + config.validation_size:
            count = config.test_points
        points = torch.rand(count, 2, generator=chance)
        hull = convex_hull([(x, y) for x, y in points.tolist()])
        sources.append(points)
        targets.append(torch.tensor([*(corner + 1 for corner in hull), 0]))
    return ragged_dataset("convex-hulls", config, {"source": sources, "target": targets}, {})
