"""The T-maze: importing this module registers `TMaze-v0`.

Bakker 2002, "Reinforcement learning with long short-term memory", section 4.1: a corridor ends in a junction. What is
seen at its beginning, and nowhere else, tells whether the goal lies north or south of the junction. The corridor looks
the same everywhere, so that only who remembers the beginning knows where to turn.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

NORTH, EAST, SOUTH, WEST = range(4)
GOAL, MISTAKE = 4.0, -0.1
"""Rewards of the right turn, and of the wrong one or a step that leads nowhere."""
_SEEN = {NORTH: (0, 1, 1), SOUTH: (1, 1, 0)}
_CORRIDOR, _JUNCTION = (1, 0, 1), (0, 1, 0)


class TMaze(gym.Env[NDArray[np.float32], int]):
    """Actions: north, east, south, west. The best return is 4; without memory it is 1.95 on average."""

    def __init__(self, length: int = 10) -> None:
        """`length`: steps from the beginning to the junction. ValueError below 1."""
        if length < 1:
            raise ValueError(f"TMaze needs length >= 1, not {length}")
        self.length = length
        self.observation_space = gym.spaces.Box(0.0, 1.0, (3,), np.float32)
        self.action_space = gym.spaces.Discrete(4)  # type: ignore[assignment]
        self._place, self._goal = 0, NORTH

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin in the west, with the goal on either side."""
        super().reset(seed=seed)
        self._place, self._goal = 0, NORTH if self.np_random.random() < 0.5 else SOUTH
        return self._observe(), {}

    def step(self, action: int) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Take a step; a turn at the junction ends the episode."""
        if self._place == self.length and action in (NORTH, SOUTH):
            return self._observe(), GOAL if action == self._goal else MISTAKE, True, False, {}
        before = self._place
        if action in (EAST, WEST):
            self._place = min(self.length, max(0, before + (1 if action == EAST else -1)))
        return self._observe(), 0.0 if self._place != before else MISTAKE, False, False, {}

    def _observe(self) -> NDArray[np.float32]:
        middle = _JUNCTION if self._place == self.length else _CORRIDOR
        return np.array(_SEEN[self._goal] if self._place == 0 else middle, np.float32)


if "TMaze-v0" not in gym.registry:
    gym.register(id="TMaze-v0", entry_point=f"{__name__}:TMaze", max_episode_steps=200)
