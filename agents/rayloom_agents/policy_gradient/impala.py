"""IMPALA: actor-critic with V-trace (Espeholt et al. 2018, arXiv 1802.01561), for discrete and continuous actions.

Actors run ahead of the learner with older policies mu; V-trace corrects for it with truncated importance weights. The
behaviour's log-probability is recorded when it acts: the weights are others when a trajectory is learnt from.

Departures from the paper:
- policy and value are two fully connected networks that share nothing, orthogonally initialised; no convolutions, no
  recurrence;
- rewards are not clipped, and the optimiser is the config's (the paper's is RMSProp);
- episodes that a time limit cuts off bootstrap from their own last observation;
- losses are means, not sums, over the steps of a trajectory;
- continuous actions: a Gaussian (see `policies`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from rayloom.contract import (
    Action,
    AlgorithmConfig,
    Batch,
    Loss,
    Metric,
    Phase,
    Spec,
    Trajectory,
    gather_parts,
    spread_parts,
)
from rayloom_agents.equations.returns import vtrace
from rayloom_agents.networks.encoder import ImageNetwork
from rayloom_agents.networks.feed_forward import Activation
from rayloom_agents.policies.actor_critic import ActorCritic


class IMPALA(ActorCritic):
    """Importance-weighted actor-learner architecture."""

    sources = frozenset({"asynchronous"})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "value_loss": Metric(better="min", unit="squared return"),
        "entropy": Metric(unit="nats", meaning="of the policy"),
        "advantage": Metric(unit="return", meaning="of V-trace"),
        "importance_ratio": Metric(meaning="of the policy to that which collected the trajectory"),
    }

    @dataclass(frozen=True, kw_only=True)
    class Config(AlgorithmConfig):
        """Settings of IMPALA."""

        gamma: Annotated[float, Ge(0), Le(1)] = 0.99
        """Discount per step."""
        lambda_: Annotated[float, Ge(0), Le(1)] = 1.0
        """Decay of the corrections from later steps."""
        rho_bar: Annotated[float, Gt(0)] = 1.0
        """Largest importance weight of a step's own correction: it decides to which policy's value V converges."""
        c_bar: Annotated[float, Gt(0)] = 1.0
        """Largest importance weight of each step on the way back: it decides how fast V converges."""
        value_coefficient: Annotated[float, Ge(0)] = 0.5
        """Weight of the squared value error."""
        entropy_coefficient: Annotated[float, Ge(0)] = 0.01
        """Weight of the entropy bonus (per nat)."""
        hidden_sizes: tuple[Annotated[int, Ge(1)], ...] = (64, 64)
        """Units of the hidden layers of both networks."""
        activation: Activation = "tanh"
        """Activation of the hidden layers."""
        image_network: ImageNetwork = "nature"
        """Convolutions over images: of Mnih et al. 2015, or the deep residual ones of Espeholt et al. 2018 (slower)."""

    config: Config

    def __init__(self, config: Config, spec: Spec) -> None:
        """Build a policy and a value network for the environment's spec."""
        super().__init__(config, spec, config.hidden_sizes, config.activation, image_network=config.image_network)

    def phases(self) -> list[Phase]:
        """Return the one phase of policy and value together."""
        return [Phase("policy_and_value", self.loss, tuple(self.parameters()))]

    def act(self, observation: Any, state: Any, explore: torch.Generator | None) -> Action:
        """Sample from the policy and record the action's log-probability, or take the mode."""
        outputs, _ = self._policy_outputs(observation, state)
        chosen = self._choose(outputs, explore)
        if explore is None:
            return chosen
        with torch.no_grad():
            taken: Any = chosen.extras.get("unclipped_action", chosen.action)
            log_probability = self._log_probability(outputs, taken)
        return chosen._replace(extras={**chosen.extras, "log_probability": log_probability})

    def prepare(self, trajectory: Trajectory) -> Batch:
        """Turn a rollout [T, N, ...] into rows [N, T, ...]; V-trace needs the weights of the update: see `loss`."""
        fields = ("reward", "terminated", "truncated", "valid", "log_probability")
        rows = {name: trajectory[name] for name in fields}
        rows["action"] = trajectory.get("unclipped_action", trajectory["action"])
        for field in ("observation", "next_observation"):
            for name, value in spread_parts(field, gather_parts(trajectory, field)).items():
                rows[name] = value.flatten(2).to(torch.float32) if self._bare else value
        return {name: value.transpose(0, 1).contiguous() for name, value in rows.items()}

    def loss(self, batch: Batch) -> Loss:
        """Return the mean over each trajectory's steps [B] of policy gradient, value error and entropy bonus.

        A dead step of NEXT_STEP autoreset belongs to no episode: it weighs nothing, and nothing flows back from it,
        since the step before it ended an episode.
        """
        config, valid = self.config, batch["valid"]
        shape = batch["reward"].shape  # [B, T]
        observation = self._steps(batch, "observation")
        log_probability, entropy = (
            value.reshape(shape) for value in self._distribution(observation, batch["action"].flatten(0, 1))
        )
        value = self._values(observation).reshape(shape)
        with torch.no_grad():
            log_ratio = log_probability - batch["log_probability"]
            next_value = self._values(self._steps(batch, "next_observation")).reshape(shape)
            target, advantage = self._targets(batch, log_ratio, value, next_value)

        def mean(per_step: Tensor) -> Tensor:
            return torch.where(valid, per_step, 0.0).mean(dim=1)

        value_error = mean((value - target).square())
        policy_gain = mean(log_probability * advantage)
        bonus = mean(entropy)
        per_example = config.value_coefficient * value_error - policy_gain - config.entropy_coefficient * bonus
        metrics = {
            "value_loss": value_error.detach(),
            "entropy": bonus.detach(),
            "advantage": mean(advantage),
            "importance_ratio": mean(log_ratio.exp()),
        }
        return Loss(per_example, metrics)

    def _targets(self, batch: Batch, log_ratio: Tensor, value: Tensor, next_value: Tensor) -> tuple[Tensor, Tensor]:
        """Return V-trace targets and advantages [B, T]."""
        config, terminated = self.config, batch["terminated"]
        continues = ~(terminated | batch["truncated"])
        by_time = (
            log_ratio,
            batch["reward"],
            config.gamma * (~terminated).to(value.dtype),
            value,
            next_value,
            continues.to(value.dtype),
        )
        target, advantage = vtrace(
            *(tensor.t() for tensor in by_time),
            lambda_=config.lambda_,
            rho_bar=config.rho_bar,
            c_bar=config.c_bar,
        )
        return target.t(), advantage.t()
