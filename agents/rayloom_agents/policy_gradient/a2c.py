"""Advantage actor-critic (Mnih et al. 2016, arXiv 1602.01783), the synchronous form: one step on each fresh rollout.

Departures from the paper: all environments are stepped together, instead of asynchronous workers with gradients of
their own; policy and value share nothing, but for an encoder and an LSTM with `memory_size`; with `lambda_` below 1 the
n-step advantages become generalised ones (Schulman et al. 2016).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Le
from torch import Tensor

from rayloom.contract import Batch, Metric
from rayloom_agents.policies.advantages import ENTROPY_WEIGHT, AdvantageActorCritic, AdvantageConfig


class A2C(AdvantageActorCritic):
    """Advantage actor-critic: give it `source.epochs: 1` and a batch of the whole rollout."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        "policy_gain": Metric(meaning="log-probability times advantage"),
        "value_loss": Metric(better="min", unit="squared return"),
        "entropy": Metric(unit="nats", meaning="of the policy"),
    }

    @dataclass(frozen=True, kw_only=True)
    class Config(AdvantageConfig):
        """Settings of A2C."""

        lambda_: Annotated[float, Ge(0), Le(1)] = 1.0
        """Decay of GAE; 1: returns to the end of the rollout, as in the paper."""
        normalize_advantages: bool = False
        """Scale the advantages of each rollout to mean 0 and standard deviation 1."""

    config: Config

    def _terms(self, rows: Batch, observation: Any, memory: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Return - A log pi(a|s) + c (V - R)^2 - entropy bonus of each row, and the metrics."""
        config = self.config
        log_probability, entropy = self._distribution(observation, rows["action"], memory)
        value_error = (self._values(observation, memory).squeeze(1) - rows["return"]).square()
        gain = rows["advantage"] * log_probability
        bonus = rows.get(ENTROPY_WEIGHT, config.entropy_coefficient) * entropy
        metrics = {
            "policy_gain": gain.detach(),
            "value_loss": value_error.detach(),
            "entropy": entropy.detach(),
        }
        return config.value_coefficient * value_error - gain - bonus, metrics
