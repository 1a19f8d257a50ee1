"""A counting environment whose observation and action have parts of every kind, each a function of where it stands.

Importing this module registers `Nested-v0` and, with action masks in `info`, `Masked-v0`.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from counting_environment import DEFAULT_SCHEDULE, OBSERVATION_SPACE, CountingEnvironment, Schedule

SPACE = gym.spaces.Dict(
    position=OBSERVATION_SPACE,
    camera=gym.spaces.Dict(
        left=gym.spaces.Box(0, 255, (2, 3), np.uint8), depth=gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    ),
    where=gym.spaces.Tuple((gym.spaces.Discrete(7), gym.spaces.MultiDiscrete([50, 60]))),
    flags=gym.spaces.MultiBinary(3),
)
ACTIONS = gym.spaces.Dict(
    move=gym.spaces.Discrete(3, start=4),
    push=gym.spaces.Tuple((gym.spaces.Box(-1, 1, (2,), np.float32), gym.spaces.MultiBinary(2))),
    turn=gym.spaces.MultiDiscrete([2, 3], start=[5, 6]),
)
PARTS = ("position", "camera.left", "camera.depth", "where.0", "where.1", "flags")


def parts_at(position: np.ndarray) -> dict[str, np.ndarray]:
    """Return the parts of observations at positions [..., 3], by name and in the types that the engine keeps."""
    index, episode, step = (position[..., i].astype(np.int64) for i in range(3))
    pixels = (index * 50 + episode * 7 + step) % 256
    return {
        "position": position.astype(np.float32),
        "camera.left": np.broadcast_to(pixels[..., None, None], (*pixels.shape, 2, 3)).astype(np.uint8),
        "camera.depth": np.stack([-step, episode + 0.5], axis=-1).astype(np.float32),
        "where.0": (index + episode + step) % 7,
        "where.1": np.stack([episode % 50, step % 60], axis=-1),
        "flags": np.stack([step % 2, episode % 2, index % 2], axis=-1).astype(np.int8),
    }


class NestedEnvironment(gym.Env[Any, Any]):
    """The counting environment; the reward tells the action's parts: see `reward_of_parts`."""

    def __init__(self, index: int = 0, schedule: Schedule = DEFAULT_SCHEDULE, fault: str = "", at: int = 3) -> None:
        self.observation_space, self.action_space = SPACE, ACTIONS
        self.inner = CountingEnvironment(index, schedule)
        self.fault, self.at, self.taken = fault, at, 0

    def _nested(self, position: np.ndarray) -> dict[str, Any]:
        parts = parts_at(position)
        camera = {"left": parts["camera.left"], "depth": parts["camera.depth"].astype(np.float64)}
        observation = {
            "position": parts["position"],
            "camera": camera,
            "where": (int(parts["where.0"]), parts["where.1"]),
            "flags": parts["flags"],
        }
        if self.fault and self.taken == self.at:
            if self.fault == "missing":
                del observation["flags"]
            elif self.fault == "nan":
                camera["depth"][1] = np.nan
            elif self.fault == "outside":
                observation["where"] = (9, parts["where.1"])
            elif self.fault == "shape":
                camera["left"] = np.zeros((3, 3), np.uint8)
            elif self.fault == "dtype":
                camera["left"] = camera["left"].astype(np.float32)
        return observation

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        position, info = self.inner.reset(seed=seed)
        return self._nested(position), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.taken += 1
        position, _, terminated, truncated, info = self.inner.step(np.int64(0))
        push, switches = action["push"]
        reward = action["move"] + 10 * action["turn"].sum() + 1_000 * float(push.sum()) + 100 * switches.sum()
        return self._nested(position), float(reward), terminated, truncated, info


class MaskedEnvironment(CountingEnvironment):
    """Counts, and tells in `info` which actions are allowed: all but the step's remainder by the number of actions."""

    def _info(self) -> dict[str, Any]:
        return {"action_mask": np.arange(3) != self.steps % 3, "phase": self.steps, "word": "no number"}

    def reset(self, **arguments: Any) -> tuple[np.ndarray, dict[str, Any]]:
        return super().reset(**arguments)[0], self._info()

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return *super().step(action)[:4], self._info()


for _name, _class in (("Nested-v0", NestedEnvironment), ("Masked-v0", MaskedEnvironment)):
    if _name not in gym.registry:
        gym.register(id=_name, entry_point=_class)
