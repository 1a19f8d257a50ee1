"""REINFORCE (Williams 1992): the log-probability of what was done, weighted by what came of it.

`baseline: value` subtracts a learnt value of the state (Sutton & Barto 2018, section 13.4), `mean` the mean return of
the rollout, `none` nothing: all three have the same expected gradient but for the mean's own share in it.

Departures from the paper: several environments are learnt from at once, after `source.rollout_steps` steps of each. An
episode that goes on then is completed by the learnt value or, without one, left out: choose rollouts of several times
the longest episode, or the short ones are learnt from more often. Steps weigh alike, without gamma^t.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor

from rayloom.contract import (
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
from rayloom_agents.equations.returns import rewards_to_go
from rayloom_agents.networks.encoder import ImageNetwork
from rayloom_agents.networks.feed_forward import Activation
from rayloom_agents.policies.actor_critic import ActorCritic


class REINFORCE(ActorCritic):
    """Monte Carlo policy gradient: give it `source.epochs: 1` and a batch of the whole rollout."""

    sources = frozenset({"on_policy"})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "policy_gain": Metric(meaning="log-probability times what the return has over the baseline"),
        "value_loss": Metric(better="min", unit="squared return"),
        "entropy": Metric(unit="nats", meaning="of the policy"),
        "complete": Metric(meaning="share of steps whose return is known"),
    }

    @dataclass(frozen=True, kw_only=True)
    class Config(AlgorithmConfig):
        """Settings of REINFORCE."""

        gamma: Annotated[float, Ge(0), Le(1)] = 0.99
        """Discount per step."""
        baseline: Literal["value", "mean", "none"] = "value"
        """What is subtracted from the returns."""
        normalize_returns: bool = True
        """Divide what is left by its standard deviation over the rollout, so that rewards may have any scale."""
        value_coefficient: Annotated[float, Ge(0)] = 0.5
        """Weight of the squared value error."""
        entropy_coefficient: Annotated[float, Ge(0)] = 0.0
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
        if config.baseline != "value":
            self.value.requires_grad_(False)
            if self.value_encoder is not None:
                self.value_encoder.requires_grad_(False)

    def phases(self) -> list[Phase]:
        """Return the one phase of policy and baseline."""
        learnt = tuple(parameter for parameter in self.parameters() if parameter.requires_grad)
        return [Phase("policy_and_value", self.loss, learnt)]

    def prepare(self, trajectory: Trajectory) -> Batch:
        """Turn a rollout [T, N, ...] into rows with returns, and what they have over the baseline."""
        config = self.config
        observation, successor = (self._steps(trajectory, name) for name in ("observation", "next_observation"))
        shape = trajectory["reward"].shape
        ended = trajectory["terminated"] | trajectory["truncated"]
        learnt = config.baseline == "value"
        zero = torch.zeros_like(trajectory["reward"])
        following = self._values(successor).reshape(shape) if learnt else zero
        returns, complete = rewards_to_go(
            trajectory["reward"], config.gamma * (~trajectory["terminated"]).float(), following, ended
        )
        counts = trajectory["valid"] & (complete | learnt)
        baseline = self._values(observation).reshape(shape) if learnt else zero
        advantage = self._over_baseline(returns - baseline, counts)
        rows = {
            **spread_parts("observation", observation),
            "action": trajectory.get("unclipped_action", trajectory["action"]).flatten(0, 1),
            "return": returns.flatten(),
            "advantage": advantage.flatten(),
            "counts": counts.flatten(),
        }
        valid = trajectory["valid"].flatten()
        return rows if bool(valid.all()) else {name: value[valid] for name, value in rows.items()}

    def _over_baseline(self, advantage: Tensor, counts: Tensor) -> Tensor:
        """Subtract the mean and divide by the deviation, where configured, both over the rollout of all learners."""
        weight = counts.to(advantage.dtype)
        count, total = self.sum_over_learners(torch.stack((weight.sum(), (weight * advantage).sum())))
        count = count.clamp(min=1)
        if self.config.baseline == "mean":
            advantage = advantage - total / count
            total = torch.zeros_like(total)
        if self.config.normalize_returns:
            squares = self.sum_over_learners((weight * (advantage - total / count).square()).sum())
            advantage = advantage / ((squares / count).sqrt() + 1e-8)
        return advantage

    def loss(self, batch: Batch) -> Loss:
        """Return - (G - b) log pi(a|s) + c (V - G)^2 - entropy bonus [B]; steps without a known return count 0."""
        config, counts = self.config, batch["counts"]
        observation = gather_parts(batch, "observation")
        log_probability, entropy = self._distribution(observation, batch["action"])
        gain = batch["advantage"] * log_probability
        per_example = -gain - config.entropy_coefficient * entropy
        metrics = {"policy_gain": gain.detach(), "entropy": entropy.detach()}
        if config.baseline == "value":
            value_error = (self._values(observation).squeeze(1) - batch["return"]).square()
            per_example = per_example + config.value_coefficient * value_error
            metrics["value_loss"] = value_error.detach()
        weight = counts.to(per_example.dtype)
        metrics = {name: torch.where(counts, value, 0.0) for name, value in metrics.items()}
        return Loss(torch.where(counts, per_example, 0.0), {**metrics, "complete": weight.mean()}, count=weight)
