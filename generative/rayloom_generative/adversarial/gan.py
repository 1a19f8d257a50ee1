"""Generative adversarial networks: Goodfellow et al. (2014), "Generative adversarial nets"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from rayloom.contract import Batch, Loss, Metric
from rayloom_generative.adversarial.alarms import Alarm, critic_has_won
from rayloom_generative.adversarial.base import AdversarialConfig, AdversarialModel
from rayloom_generative.equations.adversarial import (
    discriminator_loss,
    jensen_shannon_bound,
    minimax_generator_loss,
    non_saturating_generator_loss,
)


@dataclass(frozen=True, kw_only=True)
class GANConfig(AdversarialConfig):
    """Settings of the generative adversarial network."""

    loss: Literal["non_saturating", "minimax"] = "non_saturating"
    """What the generator descends: -log D(G(z)), or log(1 - D(G(z))), which is flat where the discriminator wins."""


class GAN(AdversarialModel):
    """A discriminator, which tells data from samples, and a generator, which deceives it.

    The discriminator ascends E log D(x) + E log(1 - D(G(z))) (algorithm 1 of the paper); the generator descends the
    second term (`minimax`) or -E log D(G(z)) (`non_saturating`, section 3). At its best the discriminator's loss is
    2 log 2 - 2 JS(data, samples), which gives the metric `jensen_shannon`. Departures: normal codes; rectifiers instead
    of maxout and dropout; any of torch's optimisers.
    """

    Config = GANConfig
    metrics: ClassVar[Mapping[str, Metric]] = {
        **AdversarialModel.metrics,
        "real_probability": Metric(meaning="mean probability that the discriminator gives data"),
        "fake_probability": Metric(meaning="mean probability that the discriminator gives samples"),
        "jensen_shannon": Metric(
            unit="nats", meaning="the discriminator's lower bound on the Jensen-Shannon divergence"
        ),
    }

    def loss_of_critic(self, real: Tensor, fake: Tensor, batch: Batch) -> Loss:
        """Return -log D(x) - log(1 - D(G(z))), [B]."""
        real_scores, fake_scores = self.scores(real, fake, batch)
        found = self.metrics_of_scores(real_scores.detach(), fake_scores.detach())
        return Loss(discriminator_loss(real_scores, fake_scores), found)

    def loss_of_generator(self, scores: Tensor) -> Tensor:
        """Return -log D(G(z)) or log(1 - D(G(z))), [B]."""
        return (
            minimax_generator_loss(scores) if self.config.loss == "minimax" else non_saturating_generator_loss(scores)
        )

    def metrics_of_scores(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """Return probabilities and each pair's part of the bound on the divergence, [B] each."""
        return {
            "real_probability": real.sigmoid(),
            "fake_probability": fake.sigmoid(),
            "jensen_shannon": jensen_shannon_bound(real, fake),
        }

    def alarms(self, outputs: dict[str, Tensor]) -> list[Alarm]:
        """Return whether the discriminator has won."""
        real, fake = (outputs[name].sigmoid().mean() for name in ("_real_score", "_fake_score"))
        return [critic_has_won(float(real), float(fake))]
