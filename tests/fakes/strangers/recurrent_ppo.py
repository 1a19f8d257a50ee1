"""PPO with an LSTM: a row is what one environment went through in a whole rollout."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rayloom.contract import Action, Batch, Loss, Spec, Trajectory
from strangers.ppo import PPO, PPOConfig, advantages


class RecurrentPPO(PPO):
    """Remembers in hidden state and cell, [N, 2, units], which begin at zero with each episode."""

    def __init__(self, config: PPOConfig, spec: Spec) -> None:
        super().__init__(config, spec, spec["observation"].shape[0])
        self.cell = nn.LSTMCell(config.units, config.units)
        self.register_buffer("scale", 1 / torch.tensor(spec["observation"].high or 1.0))

    def initial_state(self, num_envs: int) -> Tensor:
        return self.value.weight.new_zeros(num_envs, 2, self.config.units)

    def remember(self, observation: Tensor, memory: Tensor) -> Tensor:
        """Return the memory after one more observation."""
        return torch.stack(self.cell(self.features(observation * self.scale), tuple(memory.unbind(1))), 1)

    def decide(self, memory: Tensor) -> tuple[list[Tensor], Tensor]:
        hidden = memory[:, 0]
        return [self.policy(hidden).log_softmax(1)], self.value(hidden).squeeze(1)

    def act(self, observation: Tensor, state: Any, explore: torch.Generator | None) -> Action:
        after = self.remember(observation, state)
        (chance,), _ = self.decide(after)
        action = chance.argmax(1) if explore is None else torch.multinomial(chance.exp(), 1, generator=explore)[:, 0]
        return Action(action, after, {"memory": state})

    def unroll(self, observation: Tensor, memory: Tensor, first: Tensor) -> Tensor:
        """Return the memories [T, N, 2, units] after observations [T, N, D]."""
        memories = []
        for seen, begins in zip(observation, first, strict=True):
            memory = self.remember(seen, memory * (~begins).float()[:, None, None])
            memories.append(memory)
        return torch.stack(memories)

    def prepare(self, trajectory: Trajectory) -> Batch:
        steps, start = trajectory["reward"].shape, trajectory["memory"][0]
        memory = self.unroll(trajectory["observation"], start, trajectory["first"]).flatten(0, 1)
        chances, values = self.decide(memory)
        following = self.decide(self.remember(trajectory["next_observation"].flatten(0, 1), memory))[1]
        values = values.reshape(steps)
        advantage = advantages(trajectory, values, following.reshape(steps), self.config)
        rows = {
            **{name: trajectory[name] for name in ("observation", "action", "first", "valid")},
            "before": self.chance(chances, trajectory["action"].flatten()).reshape(steps),
            "advantage": self.normalised(advantage, trajectory["valid"]),
            "return": advantage + values,
        }
        return {**{name: value.transpose(0, 1).contiguous() for name, value in rows.items()}, "memory": start}

    def loss(self, batch: Batch) -> Loss:
        shape = batch["return"].shape
        memory = self.unroll(batch["observation"].transpose(0, 1), batch["memory"], batch["first"].t())
        chances, values = self.decide(memory.transpose(0, 1).flatten(0, 1))
        rows = {name: batch[name].flatten(0, 1) for name in ("action", "before", "advantage", "return")}
        step = self.surrogate(chances, values, rows)
        lived = batch["valid"].float()

        def total(each: Tensor) -> Tensor:
            return (each.reshape(shape) * lived).sum(1)

        return Loss(
            total(step.per_example), {name: total(value) for name, value in step.metrics.items()}, count=lived.sum(1)
        )
