"""Small environments that each need one thing more than a vector and a button. Importing this registers them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

Step = tuple[Any, float, bool, bool, dict[str, Any]]


class WithoutVelocities(gym.ObservationWrapper):  # type: ignore[type-arg]
    """CartPole as one sees it in a photograph: where things are, and not where they are going."""

    def __init__(self) -> None:
        super().__init__(gym.make("CartPole-v1"))
        space: Any = self.env.observation_space
        self.observation_space = gym.spaces.Box(space.low[[0, 2]], space.high[[0, 2]], dtype=np.float32)

    def observation(self, observation: Any) -> Any:
        """Return position and angle."""
        return observation[[0, 2]]


class Doors(gym.Env[np.ndarray, np.int64]):
    """Eight times: four doors, two of which are there, one of them lit. The lit one pays 1, a wall ends it with -10.

    Which doors are there is told in `info` alone.
    """

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(0, 1, (4,), np.float32)
        self.action_space = gym.spaces.Discrete(4)

    def _look(self) -> tuple[np.ndarray, dict[str, Any]]:
        there = self.np_random.choice(4, 2, replace=False)
        self.there, self.lit = np.isin(np.arange(4), there), int(there[0])
        return np.eye(4, dtype=np.float32)[self.lit], {"action_mask": self.there.astype(np.int8)}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._look()

    def step(self, action: np.int64) -> Step:
        self.steps += 1
        wall, paid = not self.there[action], float(action == self.lit)
        observation, info = self._look()
        return observation, -10.0 if wall else paid, wall or self.steps == 8, False, info


class Signs(gym.Env[Any, Any]):
    """Six times: a picture whose left or right half is bright, and a number of three; tell both, for 0.5 each."""

    def __init__(self) -> None:
        picture, number = gym.spaces.Box(0, 255, (6, 8, 1), np.uint8), gym.spaces.Box(0, 1, (3,), np.float32)
        self.observation_space = gym.spaces.Dict(picture=picture, number=number)
        self.action_space = gym.spaces.MultiDiscrete([2, 3])

    def _look(self) -> dict[str, np.ndarray]:
        self.side, self.number = int(self.np_random.integers(2)), int(self.np_random.integers(3))
        picture = self.np_random.integers(0, 80, (6, 8, 1)).astype(np.uint8)
        picture[:, 4 * self.side : 4 * self.side + 4] += 150
        return {"picture": picture, "number": np.eye(3, dtype=np.float32)[self.number]}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._look(), {}

    def step(self, action: Any) -> Step:
        self.steps += 1
        reward = 0.5 * (action[0] == self.side) + 0.5 * (action[1] == self.number)
        return self._look(), float(reward), self.steps == 6, False, {}


gym.register("WithoutVelocities-v0", WithoutVelocities, max_episode_steps=500)
gym.register("Doors-v0", Doors)
gym.register("Signs-v0", Signs)
