"""Wasserstein GAN with gradient penalty: Gulrajani et al. (2017), "Improved training of Wasserstein GANs"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor

from rayloom.contract import Batch, Loss, Metric, Spec, UserError
from rayloom_generative.adversarial.alarms import Alarm, dead_penalty
from rayloom_generative.adversarial.wgan import WassersteinConfig, WassersteinModel
from rayloom_generative.equations.adversarial import interpolate
from rayloom_generative.layers.batch_norm import couples_examples


@dataclass(frozen=True, kw_only=True)
class WGANGPConfig(WassersteinConfig):
    """Settings of the Wasserstein GAN with gradient penalty."""

    penalty_weight: Annotated[float, Ge(0)] = 10.0
    """lambda of the gradient penalty: 10 for images, 0.1 for points in the plane."""
    betas: tuple[Annotated[float, Ge(0)], Annotated[float, Ge(0)]] | None = (0.0, 0.9)
    """Decay of Adam's moments for both networks; null: what learner.optimizer says."""


class WGANGP(WassersteinModel):
    """The Wasserstein GAN whose critic pays for slopes other than 1.

    The critic maximises E D(x) - E D(G(z)) and pays lambda (|grad D| - 1)^2, two-sided, at a random point between each
    real example and its fake (algorithm 1 of the paper). Departures: small networks for small data. The estimate of a
    critic with a finite lambda is a little too large: a linear critic of data at distance m has slope
    1 + m / (2 lambda).

    Codes and interpolation coefficients are fields of the prepared batch: the losses are functions of their batch.
    Never compiled or rounded: torch.compile drops the penalty's graph, and bfloat16 its digits.
    """

    Config = WGANGPConfig
    metrics: ClassVar[Mapping[str, Metric]] = {
        **WassersteinModel.metrics,
        "penalty": Metric(better="min", meaning="squared departure of the critic's slope from 1"),
        "slope": Metric(meaning="norm of the critic's gradient between real and fake"),
    }
    eager = True

    def __init__(self, config: WGANGPConfig, spec: Spec) -> None:
        """Refuse (UserError) a critic in which an example's gradient is not its own."""
        super().__init__(config, spec)
        if couples_examples(self.critic):
            raise UserError(
                "algorithm.critic: batch norm couples the examples, and the penalty is one example's; "
                "write normalization: layer or none"
            )

    def prepare(self, trajectory: Batch) -> Batch:
        """Do what the base does, and draw interpolation coefficients [B]."""
        batch = super().prepare(trajectory)
        return {**batch, "between": self.noise.uniform(len(batch[self.field]))}

    def loss_of_critic(self, real: Tensor, fake: Tensor, batch: Batch) -> Loss:
        """Return D(fake) - D(real) + lambda (|grad D| - 1)^2 of each example [B]."""
        real_scores, fake_scores = self.scores(real, fake, batch)
        distance = real_scores - fake_scores
        slope = self.slope(interpolate(real, fake, batch["between"]), batch)
        penalty = (slope - 1).square()
        metrics = {"wasserstein": distance.detach(), "penalty": penalty.detach(), "slope": slope.detach()}
        return Loss(self.config.penalty_weight * penalty - distance, metrics)

    def slope(self, points: Tensor, batch: Batch) -> Tensor:
        """Return the norm of the critic's gradient by its input [B], differentiable by the critic's parameters."""
        points = points.detach().requires_grad_()
        # The critic treats examples apart, so that the gradient of the sum holds each example's own.
        (gradient,) = torch.autograd.grad(self.score(points, batch).sum(), points, create_graph=True)
        # The root has no derivative at 0, where a critic with dead units can be.
        return (gradient.flatten(1).square().sum(1) + 1e-12).sqrt()

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """Return the estimate and the slope on held-out data, [B] each, and what `summarize` needs."""
        found: dict[str, Any] = super().evaluate(batch)
        with torch.enable_grad():
            slope = self.slope(interpolate(found["_data"], found["_generated"], batch["between"]), batch)
        return {**found, "slope": slope.detach(), "_slope": slope.detach()}

    def alarms(self, outputs: dict[str, Tensor]) -> list[Alarm]:
        """Return whether the penalty holds the slope."""
        return [dead_penalty(float(outputs["_slope"].mean()))]
