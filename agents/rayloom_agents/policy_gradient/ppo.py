"""Proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347) for discrete and continuous actions.

Departures from the paper, each the usual practice of published implementations:
- policy and value are two networks that share nothing, but for an encoder and an LSTM with `memory_size`; orthogonal
  initialisation; Adam's eps is a setting;
- with memory, the state before each sequence is the one that the rollout had there, also in later epochs;
- advantages are normalised once over the whole rollout, not per minibatch, so that K shards equal one batch;
- log-probabilities and values of a rollout are computed in one batch after it, with the weights that collected it;
- continuous actions: a Gaussian with a state-independent standard deviation (see `policies`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Gt
from torch import Tensor

from rayloom.contract import Batch, Metric, Phase
from rayloom_agents.equations.objectives import clipped_squared_error, clipped_surrogate
from rayloom_agents.policies.advantages import ENTROPY_WEIGHT, AdvantageActorCritic, AdvantageConfig


class PPO(AdvantageActorCritic):
    """Proximal policy optimisation with a clipped surrogate."""

    learnt = ("action", "log_probability", "advantage", "return", "value")
    metrics: ClassVar[Mapping[str, Metric]] = {
        "surrogate": Metric(meaning="clipped surrogate of the advantage"),
        "value_loss": Metric(better="min", unit="squared return"),
        "entropy": Metric(unit="nats", meaning="of the policy"),
        "kl": Metric(unit="nats", meaning="divergence from the policy that collected the rollout (Schulman's k3)"),
        "clip_fraction": Metric(meaning="share of steps whose ratio lies outside the clip range"),
    }

    @dataclass(frozen=True, kw_only=True)
    class Config(AdvantageConfig):
        """Settings of PPO."""

        clip_range: Annotated[float, Gt(0)] = 0.2
        """Largest useful change of a probability ratio."""
        value_clip_range: Annotated[float, Gt(0)] | None = None
        """Largest useful change of a value since the rollout (unit: return); null: values are not held back."""
        target_kl: Annotated[float, Gt(0)] | None = None
        """Leave the rest of a rollout's batches alone once the policy is farther than this from the one that collected
        it (nats, the mean of `kl` over a batch); null: always learn from all of them."""

    config: Config

    @classmethod
    def compiles_from(cls, config: Any) -> int | None:
        """Return what was measured; a graph of an unrolled memory takes long to compile."""
        return None if config.memory_size else 15_000

    def phases(self) -> list[Phase]:
        """Return the one phase of policy and value together, which may stop early."""
        limit = self.config.target_kl
        return [replace(phase, stop_above=None if limit is None else ("kl", limit)) for phase in super().phases()]

    def _behaviour(self, observation: Any, action: Tensor, memory: Tensor | None, values: Tensor) -> Batch:
        """Return the log-probabilities, and the values where they are held back."""
        rows = {"log_probability": self._distribution(observation, action, memory)[0]}
        return rows if self.config.value_clip_range is None else {**rows, "value": values}

    def _terms(self, rows: Batch, observation: Any, memory: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of each row and the metrics."""
        config = self.config
        log_probability, entropy = self._distribution(observation, rows["action"], memory)
        surrogate, ratio = clipped_surrogate(
            log_probability, rows["log_probability"], rows["advantage"], config.clip_range
        )
        value = self._values(observation, memory).squeeze(1)
        value_error = (
            (value - rows["return"]).square()
            if config.value_clip_range is None
            else clipped_squared_error(value, rows["value"], rows["return"], config.value_clip_range)
        )
        bonus = rows.get(ENTROPY_WEIGHT, config.entropy_coefficient) * entropy
        per_example = config.value_coefficient * value_error - surrogate - bonus
        with torch.no_grad():
            metrics = {
                "surrogate": surrogate.detach(),
                "value_loss": value_error.detach(),
                "entropy": entropy.detach(),
                "kl": (ratio - 1.0) - ratio.log(),
                "clip_fraction": ((ratio - 1.0).abs() > config.clip_range).float(),
            }
        return per_example, metrics
