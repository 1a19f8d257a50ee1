"""An environment with one element more to see in Ray's processes than in the driver's."""

from __future__ import annotations

import sys
from typing import Any

import gymnasium as gym
import numpy as np


class ProcessSpaces(gym.Env[Any, Any]):
    """What it shows depends on the process, as with a file or variable that only some nodes have."""

    def __init__(self) -> None:
        size = 4 if "default_worker" in sys.argv[0] else 3
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (size,), np.float32)
        self.action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Return zeros."""
        return np.zeros(self.observation_space.shape or (), np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """End at once."""
        return np.zeros(self.observation_space.shape or (), np.float32), 0.0, True, False, {}


gym.register("ProcessSpaces-v0", ProcessSpaces)
