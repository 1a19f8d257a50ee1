"""Proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347) for discrete and continuous actions.

Departures from the paper, each the usual practice of published implementations:
- policy and value are two networks that share nothing; orthogonal initialisation; Adam's eps is a setting;
- advantages are normalised once over the whole rollout, not per minibatch, so that K shards equal one batch;
- log-probabilities and values of a rollout are computed in one batch after it, with the weights that collected it;
- continuous actions: a Gaussian with a state-independent standard deviation (see `policies`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from rayloom.contract import AlgorithmConfig, Batch, Loss, Metric, Phase, Spec, Trajectory
from rayloom_agents.equations.objectives import clipped_surrogate
from rayloom_agents.equations.returns import generalized_advantages
from rayloom_agents.networks.feed_forward import Activation, as_rows
from rayloom_agents.policies.actor_critic import ActorCritic


class PPO(ActorCritic):
    """Proximal policy optimisation with a clipped surrogate."""

    sources = frozenset({"on_policy"})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "surrogate": Metric(meaning="clipped surrogate of the advantage"),
        "value_loss": Metric(better="min", unit="squared return"),
        "entropy": Metric(unit="nats", meaning="of the policy"),
        "kl": Metric(unit="nats", meaning="divergence from the policy that collected the rollout"),
        "clip_fraction": Metric(meaning="share of steps whose ratio lies outside the clip range"),
    }

    @dataclass(frozen=True, kw_only=True)
    class Config(AlgorithmConfig):
        """Settings of PPO."""

        gamma: Annotated[float, Ge(0), Le(1)] = 0.99
        """Discount per step."""
        lambda_: Annotated[float, Ge(0), Le(1)] = 0.95
        """Decay of GAE."""
        clip_range: Annotated[float, Gt(0)] = 0.2
        """Largest useful change of a probability ratio."""
        value_coefficient: Annotated[float, Ge(0)] = 0.5
        """Weight of the squared value error."""
        entropy_coefficient: Annotated[float, Ge(0)] = 0.0
        """Weight of the entropy bonus (per nat)."""
        hidden_sizes: tuple[Annotated[int, Ge(1)], ...] = (64, 64)
        """Units of the hidden layers of both networks."""
        activation: Activation = "tanh"
        """Activation of the hidden layers."""
        normalize_advantages: bool = True
        """Scale the advantages of each rollout to mean 0 and standard deviation 1."""

    config: Config

    def __init__(self, config: Config, spec: Spec) -> None:
        """Build a policy and a value network for the environment's spec."""
        super().__init__(config, spec, config.hidden_sizes, config.activation)

    def phases(self) -> list[Phase]:
        """Return the one phase of policy and value together."""
        return [Phase("policy_and_value", self.loss, tuple(self.parameters()))]

    def prepare(self, trajectory: Trajectory) -> Batch:
        """Turn a rollout [T, N, ...] into rows with advantages, returns and behaviour log-probabilities."""
        config = self.config
        steps, number = trajectory["reward"].shape
        observation = as_rows(trajectory["observation"].flatten(0, 1))
        successor = as_rows(trajectory["next_observation"].flatten(0, 1))
        action = trajectory.get("unclipped_action", trajectory["action"]).flatten(0, 1)
        values = self.value(torch.cat((observation, successor))).reshape(2, steps, number)
        ended = trajectory["terminated"] | trajectory["truncated"]
        # A dead step of NEXT_STEP autoreset belongs to no episode: nothing flows through it.
        valid = trajectory["valid"]
        advantage = generalized_advantages(
            trajectory["reward"],
            config.gamma * (~trajectory["terminated"]).float(),
            values[0],
            values[1],
            (~ended & valid).float(),
            config.lambda_,
        )
        rows = {
            "observation": observation,
            "action": action,
            "log_probability": self._distribution(observation, action)[0],
            "advantage": advantage.flatten(),
            "return": (advantage + values[0]).flatten(),
        }
        if not bool(valid.all()):
            rows = {name: value[valid.flatten()] for name, value in rows.items()}
        if config.normalize_advantages:
            rows["advantage"] = self._normalize(rows["advantage"])
        return rows

    def _normalize(self, advantage: Tensor) -> Tensor:
        """Give the advantages of the whole rollout, over all learners, mean 0 and standard deviation 1."""
        totals = torch.stack((torch.full_like(advantage.sum(), len(advantage)), advantage.sum()))
        count, total = self.sum_over_learners(totals)
        centered = advantage - total / count
        variance = self.sum_over_learners(centered.square().sum()) / (count - 1)
        normalized: Tensor = centered / (variance.sqrt() + 1e-8)
        return normalized

    def loss(self, batch: Batch) -> Loss:
        """Return the negative surrogate plus value error minus entropy bonus, per example [B]."""
        config = self.config
        log_probability, entropy = self._distribution(batch["observation"], batch["action"])
        surrogate, ratio = clipped_surrogate(
            log_probability, batch["log_probability"], batch["advantage"], config.clip_range
        )
        value_error = (self.value(batch["observation"]).squeeze(1) - batch["return"]).square()
        per_example = config.value_coefficient * value_error - surrogate - config.entropy_coefficient * entropy
        with torch.no_grad():
            metrics = {
                "surrogate": surrogate.detach(),
                "value_loss": value_error.detach(),
                "entropy": entropy.detach(),
                "kl": (ratio - 1.0) - ratio.log(),
                "clip_fraction": ((ratio - 1.0).abs() > config.clip_range).float(),
            }
        return Loss(per_example, metrics)
