"""Wasserstein GAN with clipped weights: Arjovsky et al. (2017), "Wasserstein generative adversarial networks"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from rayloom.contract import Batch, Loss, Metric
from rayloom_generative.adversarial.base import AdversarialConfig, AdversarialModel


@dataclass(frozen=True, kw_only=True)
class WassersteinConfig(AdversarialConfig):
    """Settings of both Wasserstein GANs."""

    critic_steps: Annotated[int, Ge(1)] = 5
    """Steps of the critic before each step of the generator."""


class WassersteinModel(AdversarialModel):
    """A critic, which estimates the Wasserstein distance, and a generator, which descends it.

    The critic maximises E D(x) - E D(G(z)) over functions with a bounded slope; subclasses say what bounds it.
    """

    Config = WassersteinConfig
    metrics: ClassVar[Mapping[str, Metric]] = {
        **AdversarialModel.metrics,
        "wasserstein": Metric(meaning="the critic's estimate of the distance"),
    }

    def loss_of_generator(self, scores: Tensor) -> Tensor:
        """Return -D(G(z)) of each example [B]."""
        return -scores

    def metrics_of_scores(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """Return the critic's estimate of the distance [B]."""
        return {"wasserstein": real - fake}


@dataclass(frozen=True, kw_only=True)
class WGANConfig(WassersteinConfig):
    """Settings of the Wasserstein GAN with clipped weights."""

    clip: Annotated[float, Gt(0)] = 0.01
    """Largest absolute value of the critic's weights."""


class WGAN(WassersteinModel):
    """The Wasserstein GAN whose critic has its weights clipped to a box after each of its steps (algorithm 1).

    The box bounds the slope by some unknown constant, by which the distance is off. The paper's optimiser is rmsprop
    with a learning rate of 5e-5. Departure: the weights are also clipped when the networks are made, so that no loss
    ever sees others.
    """

    Config = WGANConfig

    def initialize_networks(self) -> None:
        """Clip the critic's first weights."""
        self._clip()

    @property
    def constrains(self) -> bool:
        """Whether `constrain` has anything to do: always."""
        return True

    def constrain(self) -> None:
        """Clip the critic's weights, then do what the base does."""
        self._clip()
        super().constrain()

    @torch.no_grad()
    def _clip(self) -> None:
        for parameter in self.critic.parameters():
            parameter.clamp_(-self.config.clip, self.config.clip)

    def loss_of_critic(self, real: Tensor, fake: Tensor, batch: Batch) -> Loss:
        """Return D(G(z)) - D(x) of each pair [B]."""
        real_scores, fake_scores = self.scores(real, fake, batch)
        distance = real_scores - fake_scores
        return Loss(-distance, {"wasserstein": distance.detach()})
