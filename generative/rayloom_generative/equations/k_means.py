"""Distances to centres, and where to begin; pure functions."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def squared_distances(points: Tensor, centres: Tensor) -> Tensor:
    """Return the squared Euclidean distances [B, K] of points [B, D] from centres [K, D]; never below 0."""
    square = points.square().sum(1, keepdim=True) - 2 * points @ centres.T + centres.square().sum(1)
    return square.clamp(min=0)


def plus_plus(points: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Choose `count` of the points [N, D] as first centres [count, D]: Arthur and Vassilvitskii (2007), "k-means++".

    The first at random; for each further one a few points are drawn, with probabilities proportional to the squared
    distance from the nearest centre so far, and the one that lowers the sum of these distances most is taken (their
    section 7). Draws from `generator`; None: torch's global one.
    """
    tries = 2 + int(math.log(count))
    first = int(torch.randint(len(points), (), generator=generator))
    chosen = [first]
    nearest = squared_distances(points, points[first].unsqueeze(0))[:, 0]
    for _ in range(count - 1):
        odds = nearest if float(nearest.sum()) > 0 else torch.ones_like(nearest)
        drawn = torch.multinomial(odds, tries, replacement=True, generator=generator)
        after = torch.minimum(nearest[:, None], squared_distances(points, points[drawn]))
        best = int(after.sum(0).argmin())
        chosen.append(int(drawn[best]))
        nearest = after[:, best]
    return points[chosen]
