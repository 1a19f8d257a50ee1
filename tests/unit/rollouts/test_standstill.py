"""An environment in the learner's process that does not come back is named, with the place where it is."""

from __future__ import annotations

import time

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rayloom.rollouts import standstill
from rayloom.rollouts.environment import Environment


class Slow(gym.Env[np.ndarray, int]):
    """Takes its time where it is told to."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, step_s: float = 0.0, reset_s: float = 0.0) -> None:
        self.step_s, self.reset_s = step_s, reset_s

    def reset(self, *, seed: int | None = None, options: dict[str, object] | None = None) -> tuple[np.ndarray, dict]:
        time.sleep(self.reset_s)
        return np.zeros(2, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, object]]:
        time.sleep(self.step_s)
        return np.zeros(2, np.float32), 0.0, False, False, {}


def stepped(monkeypatch: pytest.MonkeyPatch, steps: int, **slow: float) -> None:
    monkeypatch.setattr(standstill, "LIMIT_S", 0.3)
    monkeypatch.setattr(standstill, "_LOOK_S", 0.05)
    monkeypatch.setattr(standstill, "_thread", None)  # one that looks as often from its beginning
    vector = SyncVectorEnv([lambda: Slow(**slow)] * 2, copy=False, autoreset_mode=AutoresetMode.SAME_STEP)
    environment = Environment(vector, first_index=4, worker=1)
    environment.reset(0)
    for _ in range(steps):
        environment.step(np.zeros(2, np.int64))


@pytest.mark.parametrize("slow", [{"step_s": 0.5}, {"reset_s": 0.5}])
def test_who_does_not_come_back_is_named_once(
    slow: dict[str, float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stepped(monkeypatch, 2, **slow)
    told = capsys.readouterr().err
    assert told.count("environments 4 to 5 of rollout worker 1 have not come back from a step or reset for 0.3 s") == 1
    assert "test_standstill.py:" in told


def test_many_steps_that_do_come_back_are_no_standstill(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stepped(monkeypatch, 30, step_s=0.02)
    assert capsys.readouterr().err == ""
