"""What on-policy actor-critic methods share: rollouts turned into rows with advantages, and losses through time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge, Le
from torch import Tensor

from rayloom.contract import (
    AlgorithmConfig,
    Batch,
    Loss,
    Phase,
    Spec,
    Trajectory,
    UserError,
    gather_parts,
    spread_parts,
)
from rayloom_agents.equations.returns import generalized_advantages
from rayloom_agents.networks.encoder import ImageNetwork
from rayloom_agents.networks.feed_forward import Activation
from rayloom_agents.networks.normalization import RewardScale
from rayloom_agents.policies.actor_critic import ActorCritic

ENTROPY_WEIGHT = "entropy_weight"
"""Field of the rows with the present weight of the entropy bonus, where it changes."""


@dataclass(frozen=True, kw_only=True)
class AdvantageConfig(AlgorithmConfig):
    """Settings of every on-policy actor-critic method."""

    gamma: Annotated[float, Ge(0), Le(1)] = 0.99
    """Discount per step."""
    lambda_: Annotated[float, Ge(0), Le(1)] = 0.95
    """Decay of GAE."""
    value_coefficient: Annotated[float, Ge(0)] = 0.5
    """Weight of the squared value error."""
    entropy_coefficient: Annotated[float, Ge(0)] = 0.0
    """Weight of the entropy bonus (per nat)."""
    entropy_end: Annotated[float, Ge(0)] | None = None
    """Weight of the entropy bonus at the end of the budget, reached by a line; null: it stays."""
    hidden_sizes: tuple[Annotated[int, Ge(1)], ...] = (64, 64)
    """Units of the hidden layers of both networks."""
    activation: Activation = "tanh"
    """Activation of the hidden layers."""
    image_network: ImageNetwork = "nature"
    """Convolutions over images: of Mnih et al. 2015, or the deep residual ones of Espeholt et al. 2018 (slower)."""
    normalize_advantages: bool = True
    """Scale the advantages of each rollout to mean 0 and standard deviation 1."""
    normalize_observation: bool = False
    """Give observations mean 0 and standard deviation 1 by running statistics."""
    normalize_reward: bool = False
    """Divide rewards by the running standard deviation of their discounted sums; what is reported stays as it was."""
    memory_size: Annotated[int, Ge(0)] = 0
    """Units of an LSTM between observations and both networks; 0: no memory."""
    sequence_length: Annotated[int, Ge(1)] = 16
    """With memory: steps through which its gradient flows. `learner.batch_size` then counts such sequences."""


class AdvantageActorCritic(ActorCritic):
    """An actor-critic that learns from fresh rollouts; subclasses say what the loss of a step is (`_terms`)."""

    sources = frozenset({"on_policy"})
    learnt: tuple[str, ...] = ("action", "advantage", "return")
    """Fields of a row that `_terms` takes, besides the observation."""
    config: AdvantageConfig

    def __init__(self, config: AdvantageConfig, spec: Spec) -> None:
        """Build a policy and a value network for the environment's spec."""
        super().__init__(
            config,
            spec,
            config.hidden_sizes,
            config.activation,
            config.memory_size,
            config.normalize_observation,
            config.image_network,
        )
        self.reward_scale = RewardScale(config.gamma) if config.normalize_reward else None

    def phases(self) -> list[Phase]:
        """Return the one phase of policy and value together."""
        return [Phase("policy_and_value", self.loss, tuple(self.parameters()))]

    def collected(self, trajectory: Trajectory) -> None:
        """Remember a rollout for the running statistics."""
        for statistics in (self.normalizer, self.reward_scale):
            if statistics is not None:
                statistics.see(trajectory)

    def prepare(self, trajectory: Trajectory) -> Batch:
        """Turn a rollout [T, N, ...] into rows with advantages and returns.

        With memory a row is a sequence of `sequence_length` steps [L, ...] and the memory before it. Observations are
        normalised as they were when the policy acted on them; the rollout enters the statistics after that.
        """
        if self.reward_scale is not None:
            self.reward_scale.merge(self.sum_over_learners)
            trajectory = {**trajectory, "reward": self.reward_scale(trajectory["reward"])}
        rows = self._rows(trajectory)
        if self.normalizer is not None:
            self.normalizer.merge(self.sum_over_learners)
        return rows

    def _rows(self, trajectory: Trajectory) -> Batch:
        steps, number = trajectory["reward"].shape
        observation, successor = (
            self._normalized(self._steps(trajectory, name)) for name in ("observation", "next_observation")
        )
        action = trajectory.get("unclipped_action", trajectory["action"]).flatten(0, 1)
        memory = None
        if self.memory is None:
            values = self._values(join_parts(observation, successor)).reshape(2, steps, number)
        else:
            memory, after = self._remember(trajectory, observation, successor)
            values = self._values(None, torch.cat((memory, after))).reshape(2, steps, number)
        advantage = self._advantages(trajectory, values)
        valid = trajectory["valid"].flatten()
        dead = not bool(valid.all())
        rows = {
            **spread_parts("observation", observation),
            "action": action,
            "advantage": advantage.flatten(),
            "return": (advantage + values[0]).flatten(),
            **self._behaviour(observation, action, memory, values[0].flatten()),
        }
        if self.config.entropy_end is not None:  # a field of the rows, so that the loss can be compiled
            rows[ENTROPY_WEIGHT] = torch.full_like(rows["advantage"], self._entropy_weight())
        if self.memory is not None:
            if self.config.normalize_advantages:
                rows["advantage"][valid] = self._normalize(rows["advantage"][valid])
            return self._sequences(trajectory, rows)
        if dead:
            rows = {name: value[valid] for name, value in rows.items()}
        if self.config.normalize_advantages:
            rows["advantage"] = self._normalize(rows["advantage"])
        return rows

    def _advantages(self, trajectory: Trajectory, values: Tensor) -> Tensor:
        """Return the advantages [T, N] for the values [2, T, N] of observations and successors."""
        config = self.config
        ended = trajectory["terminated"] | trajectory["truncated"]
        # A dead step of NEXT_STEP autoreset belongs to no episode: nothing flows through it.
        return generalized_advantages(
            trajectory["reward"],
            config.gamma * (~trajectory["terminated"]).float(),
            values[0],
            values[1],
            (~ended & trajectory["valid"]).float(),
            config.lambda_,
        )

    def _remember(self, trajectory: Trajectory, observation: Any, successor: Any) -> tuple[Tensor, Tensor]:
        """Return the memory [T * N, ...] after each step, and after its successor if the episode went on."""
        assert self.memory is not None
        shape = trajectory["reward"].shape
        features = self.encoder(observation).unflatten(0, shape)
        memory = self.memory.unroll(features, trajectory["memory"][0], trajectory["first"]).flatten(0, 1)
        return memory, self.memory.step(self.encoder(successor), memory)

    def _sequences(self, trajectory: Trajectory, rows: Batch) -> Batch:
        """Cut rows of steps [T * N, ...] into sequences [T / L * N, L, ...]."""
        steps, number = trajectory["reward"].shape
        length = self.config.sequence_length
        if steps % length:
            raise UserError(
                f"algorithm.sequence_length: {length} does not divide the {steps} steps of a rollout "
                "(source.rollout_steps)"
            )
        rows |= {name: trajectory[name].flatten() for name in ("valid", "first")}
        cut = {
            name: value.reshape(-1, length, number, *value.shape[1:]).transpose(1, 2).flatten(0, 1).contiguous()
            for name, value in rows.items()
        }
        return {**cut, "memory": trajectory["memory"][::length].flatten(0, 1)}

    def _normalize(self, advantage: Tensor) -> Tensor:
        """Give the advantages of the whole rollout, over all learners, mean 0 and standard deviation 1."""
        totals = torch.stack((torch.full_like(advantage.sum(), len(advantage)), advantage.sum()))
        count, total = self.sum_over_learners(totals)
        centered = advantage - total / count
        variance = self.sum_over_learners(centered.square().sum()) / (count - 1)
        normalized: Tensor = centered / (variance.sqrt() + 1e-8)
        return normalized

    def loss(self, batch: Batch) -> Loss:
        """Return the loss of each example [B].

        With memory an example is a sequence, and its loss the mean over its steps; dead ones weigh nothing.
        """
        if self.memory is None:
            return Loss(*self._terms(batch, gather_parts(batch, "observation"), None))
        shape = batch["return"].shape  # [B, L]
        observation = self._steps(batch, "observation")
        features = self.encoder(observation).unflatten(0, shape).transpose(0, 1)
        memory = self.memory.unroll(features, batch["memory"], batch["first"].t()).transpose(0, 1).flatten(0, 1)
        rows = {name: batch[name].flatten(0, 1) for name in (*self.learnt, ENTROPY_WEIGHT) if name in batch}
        per_step, metrics = self._terms(rows, observation, memory)

        def mean(values: Tensor) -> Tensor:
            return torch.where(batch["valid"], values.reshape(shape), 0.0).mean(dim=1)

        return Loss(mean(per_step), {name: mean(values) for name, values in metrics.items()})

    def _behaviour(self, observation: Any, action: Tensor, memory: Tensor | None, values: Tensor) -> Batch:
        """Return further fields of the rows, as they are by the weights that collected them."""
        return {}

    def _terms(self, rows: Batch, observation: Any, memory: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of each row [B], and the metrics."""
        raise NotImplementedError

    def _entropy_weight(self) -> float:
        """Return the present weight of the entropy bonus."""
        start, end = self.config.entropy_coefficient, self.config.entropy_end
        return start if end is None else start + self.progress.fraction * (end - start)


def join_parts(one: Any, other: Any) -> Any:
    """Return two observations [B, ...], nested or not, as one [2 * B, ...]."""
    if isinstance(one, Mapping):
        return {name: torch.cat((value, other[name])) for name, value in one.items()}
    return torch.cat((one, other))
