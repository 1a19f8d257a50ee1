"""An environment with bad habits: it draws from the global generators and changes the options that it was given."""

from __future__ import annotations

import copy
import random
from typing import Any

import gymnasium as gym
import numpy as np


class Ambient(gym.Env[Any, Any]):
    """Observes and rewards draws of Python's and NumPy's global generators; an episode lasts `length` steps."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, layout: dict[str, Any] | None = None, length: int = 10) -> None:
        self.layout, self.length, self.steps = layout if layout is not None else {}, length, 0
        self.given = copy.deepcopy(self.layout)
        self.layout["made"] = self.layout.get("made", 0) + 1
        self.layout.setdefault("places", []).append(random.random())

    def _draw(self) -> np.ndarray:
        return np.array([random.uniform(-1, 1), np.random.uniform(-1, 1)], np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[Any, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._draw(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[Any, Any]]:
        self.steps += 1
        return self._draw(), random.random() + float(action), self.steps >= self.length, False, {}


gym.register("Ambient-v0", entry_point=Ambient)
