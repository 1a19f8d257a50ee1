"""Stacks of the last observations, as the agent sees them: [N, k, ...], the present one last."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
from gymnasium.vector import VectorEnv

from rayloom.errors import UserError
from rayloom.rollouts.environment import Environment, Step
from rayloom.rollouts.spaces import Array, Values


class StackedEnvironment(Environment):
    """Environments whose observations are the last `frames` ones of the episode; its first is repeated before it."""

    def __init__(self, frames: int, vector_env: VectorEnv[Any, Any, Any], *arguments: Any) -> None:
        """As `Environment`, whose observations must be one array."""
        super().__init__(vector_env, *arguments)
        if "observation" not in self.spec:
            raise UserError(
                "source.frame_stack: stacks observations that are one array, and these have the parts "
                f"{', '.join(name for name in self.spec if name.startswith('observation'))}; remove it"
            )
        one = self.spec["observation"]
        if isinstance(one.num_values, int):
            raise UserError("source.frame_stack: stacks arrays, and these observations are categories; remove it")
        stacked = replace(
            one,
            shape=(frames, *one.shape),
            num_values=None if one.num_values is None else one.num_values * frames,
            low=None if one.low is None else one.low * frames,
            high=None if one.high is None else one.high * frames,
        )
        self.spec = {**self.spec, "observation": stacked}
        self._frames = frames
        self._stack = np.empty(0)

    def reset(self, seed: int) -> Array:
        """Start new episodes everywhere; return [N, k, ...]."""
        self._stack = self._repeat(super().reset(seed))
        return self._stack

    def step(self, action: Values) -> Step:
        """Apply actions and return the true transitions, between stacks."""
        step = super().step(action)
        frame = cast(Array, step.next_observation)[:, None]
        successor = observation = np.concatenate((self._stack[:, 1:], frame), axis=1)
        if step.begins.any():
            observation = successor.copy()
            observation[step.begins] = self._repeat(cast(Array, step.observation)[step.begins])
        self._stack = observation
        return step._replace(next_observation=successor, observation=observation)

    def check(self, observations: Values, rewards: Array) -> None:
        """Check the newest of each stack [T, N, k, ...]: those before it were checked before."""
        super().check(cast(Array, observations)[:, :, -1], rewards)

    def _repeat(self, observation: Values) -> Array:
        return np.repeat(cast(Array, observation)[:, None], self._frames, axis=1)
