"""Mix-up: Zhang, Cisse, Dauphin and Lopez-Paz (2018), "mixup: Beyond empirical risk minimization"."""

from __future__ import annotations

import torch
from torch import Tensor

_POINTS = 4097


class SymmetricBeta:
    """Shares distributed as Beta(alpha, alpha), from uniform numbers by the inverse of the distribution function.

    One uniform number makes one share, without rejections, so that the noise of a batch has a fixed shape. With
    t = s^alpha the density's singularity at 0 is gone: the integral of s^(alpha - 1) (1 - s)^(alpha - 1) from 0 to x is
    1 / alpha times that of (1 - t^(1 / alpha))^(alpha - 1) from 0 to x^alpha. The trapezoidal rule does the half below
    0.5, and symmetry the other; shares are right to 1e-4.
    """

    def __init__(self, alpha: float) -> None:
        self._alpha = alpha
        self._powers = torch.linspace(0, 0.5**alpha, _POINTS, dtype=torch.float64)
        density = (1 - self._powers ** (1 / alpha)) ** (alpha - 1)
        steps = torch.diff(self._powers) * (density[1:] + density[:-1]) / 2
        below = torch.cat((torch.zeros(1, dtype=torch.float64), steps.cumsum(0)))
        self._below = below / below[-1] / 2

    def quantile(self, uniform: Tensor) -> Tensor:
        """Map numbers [B] that are uniform in [0, 1) to shares [B] in [0, 1], float32."""
        below, powers = self._below.to(uniform.device), self._powers.to(uniform.device)
        upper = uniform >= 0.5
        half = torch.where(upper, 1 - uniform.double(), uniform.double())
        right = torch.searchsorted(below, half).clamp(1, _POINTS - 1)
        left = right - 1
        along = (half - below[left]) / (below[right] - below[left])
        share = (powers[left] + along * (powers[right] - powers[left])) ** (1 / self._alpha)
        return torch.where(upper, 1 - share, share).float()


def mix(inputs: Tensor, partner: Tensor, share: Tensor) -> Tensor:
    """Return share * inputs + (1 - share) * inputs[partner], equation 1; inputs [B, ...], partner and share [B]."""
    columns = share.view(-1, *[1] * (inputs.ndim - 1))
    return columns * inputs + (1 - columns) * inputs.index_select(0, partner)
