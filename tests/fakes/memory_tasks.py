"""Tasks that need what a plain agent lacks: memory, obedience to a mask, eyes. Importing this module registers them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

LENGTH = 4


class RepeatCue(gym.Env[np.ndarray, np.int64]):
    """Shows a cue of two at the first of four steps; the last action earns 1 if it repeats it. Chance is 0.5."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = gym.spaces.Discrete(2)

    def _observe(self) -> np.ndarray:
        return np.array([(2 * self.cue - 1) * (self.steps == 0), self.steps == LENGTH - 1], np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.cue, self.steps = int(self.np_random.integers(2)), 0
        return self._observe(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        reward = float(self.steps == LENGTH - 1 and action == self.cue)
        self.steps += 1
        return self._observe(), reward, self.steps == LENGTH, False, {}


class Forbidding(gym.Env[Any, Any]):
    """Pays for what a mask forbids: a picture and a vector, two choices (3 and 2 ways), each with one way forbidden.

    A forbidden action raises. The second choice earns 1 where it tells whether the picture is bright.
    """

    def __init__(self, single: bool = False) -> None:
        spaces = {
            "picture": gym.spaces.Box(0, 255, (8, 8), np.uint8),
            "vector": gym.spaces.Box(-1, 1, (2,), np.float32),
            "action_mask": gym.spaces.MultiBinary(3 if single else 5),
        }
        self.single = single
        self.observation_space = gym.spaces.Dict(spaces)
        self.action_space = gym.spaces.Discrete(3) if single else gym.spaces.MultiDiscrete([3, 2])

    def _observe(self) -> dict[str, np.ndarray]:
        self.bright, self.forbidden = int(self.np_random.integers(2)), int(self.np_random.integers(3))
        mask = np.arange(3) != self.forbidden
        return {
            "picture": np.full((8, 8), 200 * self.bright + 20, np.uint8),
            "vector": self.np_random.uniform(-1, 1, 2).astype(np.float32),
            "action_mask": (mask if self.single else np.append(mask, [True, True])).astype(np.int8),
        }

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        first, second = (action, int(action == 2)) if self.single else action
        if first == self.forbidden:
            raise AssertionError(f"the mask forbade {first}")
        self.steps += 1
        reward = float(second == self.bright)
        return self._observe(), reward, False, self.steps == 8, {}


for _name, _class in (("RepeatCue-v0", RepeatCue), ("Forbidding-v0", Forbidding)):
    if _name not in gym.registry:
        gym.register(id=_name, entry_point=_class)
