"""An environment and an algorithm that sleep where they are told to, so that it is known where a run's time goes.

Importing this module registers `Sleepy-v0`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from rayloom.contract import Batch, Loss
from rayloom_agents.policy_gradient.ppo import PPO

EPISODE_LENGTH = 4


class SleepyEnvironment(gym.Env[np.ndarray, np.int64]):
    """Episodes of four steps, each of which takes `step_s` seconds."""

    def __init__(self, step_s: float = 0.0) -> None:
        self.observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = gym.spaces.Discrete(2)
        self.step_s = step_s
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, dtype=np.float32), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        time.sleep(self.step_s)
        self.steps += 1
        return np.zeros(2, dtype=np.float32), float(action), self.steps == EPISODE_LENGTH, False, {}


class SlowPPO(PPO):
    """PPO whose rollouts and losses take their time; evaluations do not."""

    @dataclass(frozen=True, kw_only=True)
    class Config(PPO.Config):
        """Settings of PPO, and where to sleep."""

        act_s: float = 0.0
        """Sleep in each choice of actions (seconds)."""
        loss_s: float = 0.0
        """Sleep in each loss (seconds)."""

    config: Config

    def act(self, observation: Tensor, state: Any, explore: torch.Generator | None) -> Any:
        """Sleep while exploring, then act."""
        if explore is not None:
            time.sleep(self.config.act_s)
        return super().act(observation, state, explore)

    def loss(self, batch: Batch) -> Loss:
        """Sleep, then return PPO's loss."""
        time.sleep(self.config.loss_s)
        return super().loss(batch)


if "Sleepy-v0" not in gym.registry:
    gym.register(id="Sleepy-v0", entry_point=SleepyEnvironment)
