"""Densities of the next point of a pen: a mixture of correlated Gaussians, and what the pen does (Graves 2013)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class PenDensity(NamedTuple):
    """Of one step: log p(x, y) = log sum over m of pi_m N(x, y | mean_m, scale_m, rho_m), and p(pen), K values."""

    log_weights: Tensor
    """[..., M]."""
    means: Tensor
    """[..., M, 2]."""
    log_scales: Tensor
    """[..., M, 2]."""
    correlations: Tensor
    """[..., M], inside -1..1."""
    log_pen: Tensor
    """[..., K]."""

    def log_offset(self, offset: Tensor) -> Tensor:
        """Return the log-density [...] of offsets [..., 2] (equations 24 and 25 of Graves 2013)."""
        x, y = ((offset[..., None, :] - self.means) * (-self.log_scales).exp()).unbind(-1)
        rest = 1 - self.correlations.square()
        distance = (x.square() + y.square() - 2 * self.correlations * x * y) / rest
        normal = -0.5 * distance - math.log(2 * math.pi) - self.log_scales.sum(dim=-1) - 0.5 * rest.log()
        return torch.logsumexp(self.log_weights + normal, dim=-1)

    def log_step(self, offset: Tensor, pen: Tensor) -> Tensor:
        """Return the log-density [...] of offsets [..., 2] together with what the pen does [...] (equation 26)."""
        return self.log_offset(offset) + self.log_pen.gather(-1, pen[..., None]).squeeze(-1)

    def sample(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw offsets [B, 2] and pens [B]; the leading shape of the density must be [B]."""
        component = torch.multinomial(self.log_weights.exp(), 1, generator=generator)
        mean, log_scale = (
            part.gather(1, component[:, :, None].expand(-1, -1, 2)).squeeze(1) for part in (self.means, self.log_scales)
        )
        rho = self.correlations.gather(1, component).squeeze(1)
        first, second = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype).unbind(1)
        unit = torch.stack((first, rho * first + (1 - rho.square()).sqrt() * second), dim=1)
        pen = torch.multinomial(self.log_pen.exp(), 1, generator=generator).squeeze(1)
        return mean + log_scale.exp() * unit, pen


def pen_outputs(components: int, pens: int) -> int:
    """Return how many outputs of a network `pen_density` takes."""
    return 6 * components + pens


def pen_density(outputs: Tensor, components: int, bias: float = 0.0) -> PenDensity:
    """Return the density of outputs [..., 6 M + K] (equations 18 to 22).

    `bias` >= 0 makes samples cleaner: scales shrink by exp(-bias), weights are raised to the power 1 + bias (equations
    61 and 62), and so are the pen's probabilities, which the paper leaves as they are. Departures: a correlation stays
    inside +-0.99 and a scale above exp(-6), so that a density is bounded.
    """
    sizes = [components, 2 * components, 2 * components, components, outputs.shape[-1] - 6 * components]
    weights, means, scales, correlations, pen = torch.split(outputs, sizes, dim=-1)
    pairs = (*outputs.shape[:-1], components, 2)
    return PenDensity(
        torch.log_softmax(weights * (1 + bias), dim=-1),
        means.reshape(pairs),
        scales.reshape(pairs).clamp(min=-6.0) - bias,
        0.99 * torch.tanh(correlations),
        torch.log_softmax(pen * (1 + bias), dim=-1),
    )
