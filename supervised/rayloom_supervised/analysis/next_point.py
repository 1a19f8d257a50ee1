"""How well a pen's next point is foretold without memory: linear regression with Gaussian errors."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class GaussianNextPoint(NamedTuple):
    """offset(t) ~ N(A [offset(t-1); 1], S), pen(t) ~ P, with an A, an S and a P for each pen(t-1), of K.

    Before the first point the pen has a state of its own, number K.
    """

    weights: Tensor
    """A of each state, [K + 1, 2, 3]."""
    covariances: Tensor
    """S of each state, [K + 1, 2, 2]."""
    pen: Tensor
    """P of each state, [K + 1, K]."""

    def log_step(self, last: Tensor, last_pen: Tensor, offset: Tensor, pen: Tensor) -> Tensor:
        """Return the log-density [R] of offsets [R, 2] and pens [R] after these."""
        foretold = (self.weights[last_pen] @ _with_one(last)[:, :, None]).squeeze(2)
        error = offset - foretold
        scaled = (torch.linalg.inv(self.covariances)[last_pen] @ error[:, :, None]).squeeze(2)
        normal = -0.5 * (error * scaled).sum(dim=1) - math.log(2 * math.pi)
        found: Tensor = normal - 0.5 * torch.logdet(self.covariances)[last_pen] + self.pen[last_pen, pen].log()
        return found


def fit_next_point(last: Tensor, last_pen: Tensor, offset: Tensor, pen: Tensor, pens: int) -> GaussianNextPoint:
    """Return the likeliest model, in float64, of offsets [R, 2] and pens [R] after these.

    Chances are counted with one observation more of each, and a state that is never left, as the last one, gets A = 0
    and S = 1.
    """
    given, offset = _with_one(last.double()), offset.double()
    weights = torch.zeros(pens + 1, 2, 3, dtype=torch.float64)
    covariances = torch.eye(2, dtype=torch.float64).repeat(pens + 1, 1, 1)
    chances = torch.ones(pens + 1, pens, dtype=torch.float64)
    for state in range(pens + 1):
        chosen = last_pen == state
        chances[state] += torch.bincount(pen[chosen], minlength=pens)
        if int(chosen.sum()) > 3:
            inputs, wanted = given[chosen], offset[chosen]
            # Before the first point the last offset is always 0: the smallest solution of several.
            weights[state] = torch.linalg.lstsq(inputs, wanted, driver="gelsd").solution.T
            error = wanted - inputs @ weights[state].T
            covariances[state] = error.T @ error / len(error)
    return GaussianNextPoint(weights, covariances, chances / chances.sum(dim=1, keepdim=True))


def _with_one(last: Tensor) -> Tensor:
    return F.pad(last, (0, 1), value=1.0)
