"""CartPole that fails on demand: it dies, hangs, leaks or raises, at given steps and as often as it is told to.

How often it has failed is counted in the folder `marks`, one file a failure, so that it outlives the process. Importing
this module registers `Failing-v0` and, for sleeping in every step, `Sleeping-v0`.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleEnv


class FaultyEnvironment(CartPoleEnv):
    """Fails at its step number `at`, `times` times over all processes (0: always)."""

    def __init__(self, fault: str, marks: str, at: int = 50, times: int = 1) -> None:
        super().__init__()
        self.fault, self.marks, self.at, self.times = fault, Path(marks), at, times
        self.taken = 0
        self.leaked: list[np.ndarray] = []

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.taken += 1
        if self.taken == self.at and self._claim():
            self._fail()
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, float(reward), terminated, truncated, info

    def _claim(self) -> bool:
        """Leave a mark, unless there are enough of them."""
        for number in range(self.times or 10_000):
            try:
                (self.marks / f"{number:04d}-{self.fault}").touch(exist_ok=False)
            except FileExistsError:
                continue
            return True
        return False

    def _fail(self) -> None:
        if self.fault == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.fault == "hang":
            time.sleep(3_600)
        elif self.fault == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif self.fault == "raise":
            raise ArithmeticError("poisoned")
        elif self.fault == "nan":
            self.state = np.full(4, np.nan)
        else:
            assert self.fault == "leak"
            self.leaked.append(np.ones(40_000_000))  # 305 MiB


class SleepyEnvironment(CartPoleEnv):
    """CartPole whose step takes a while, like a simulator on another machine."""

    def __init__(self, sleep_s: float = 0.005) -> None:
        super().__init__()
        self.sleep_s = sleep_s

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        time.sleep(self.sleep_s)
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, float(reward), terminated, truncated, info


if "Failing-v0" not in gym.registry:
    gym.register(id="Failing-v0", entry_point=FaultyEnvironment, max_episode_steps=500)
    gym.register(id="Sleeping-v0", entry_point=SleepyEnvironment, max_episode_steps=500)
