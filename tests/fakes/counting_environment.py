"""An environment that counts, so that every transition names where it came from; with faults on demand.

Observation: (environment, episode, step in the episode). The episodes of one environment follow a schedule of (length,
how it ends). Importing this module registers `Counting-v0` (the faults below are its options) and `CountingNative-v0`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

Schedule = Sequence[tuple[int, str]]
"""Lengths and ends ("terminated", "truncated" or "both") of the episodes; repeats for ever."""
NUM_ACTIONS = 3
DEFAULT_SCHEDULE: Schedule = ((5, "terminated"), (1, "truncated"), (3, "truncated"))
OBSERVATION_SPACE = gym.spaces.Box(0, 1_000, (3,), np.float32)


def reward_of(observation: np.ndarray, action: int) -> float:
    """The reward names the state and the action it belongs to; exact in float32."""
    index, episode, step = (float(value) for value in observation)
    return index * 0.25 + episode * 10 + step * 0.5 + action * 1_000


class CountingEnvironment(gym.Env[np.ndarray, np.int64]):
    """One environment; `start` is the first action of its Discrete space, `reuse` returns one array again and again."""

    def __init__(self, index: int = 0, schedule: Schedule = DEFAULT_SCHEDULE, start: int = 0, reuse: bool = False):
        self.observation_space = OBSERVATION_SPACE
        self.action_space = gym.spaces.Discrete(NUM_ACTIONS, start=start)
        self.index, self.schedule, self.start, self.reuse = index, schedule, start, reuse
        self.episode = -1
        self.steps = 0
        self.state = np.zeros(3, dtype=np.float32)

    def _observe(self) -> np.ndarray:
        self.state[:] = (self.index, self.episode, self.steps)
        return self.state if self.reuse else self.state.copy()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.episode += 1
        self.steps = 0
        return self._observe(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        reward = reward_of(np.array([self.index, self.episode, self.steps]), int(action) - self.start)
        self.steps += 1
        length, end = self.schedule[self.episode % len(self.schedule)]
        assert self.steps <= length, "stepped after the end of an episode"
        last = self.steps == length
        return self._observe(), reward, last and end != "truncated", last and end != "terminated", {"note": 1}


class CountingVectorEnvironment(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """Natively vectorised counting environments with NEXT_STEP autoreset; seeds are kept in `seeds`."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, num_envs: int = 2, schedules: Sequence[Schedule] | None = None, fail_at: int = 0):
        self.num_envs = num_envs
        self.single_observation_space = OBSERVATION_SPACE
        self.single_action_space = gym.spaces.Discrete(NUM_ACTIONS)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.envs = [CountingEnvironment(i, s) for i, s in enumerate(schedules or [DEFAULT_SCHEDULE] * num_envs)]
        self.done = np.zeros(num_envs, dtype=bool)
        self.seeds: list[int | None] = []
        self.fail_at, self.steps = fail_at, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        self.seeds.append(seed)
        self.done = np.zeros(self.num_envs, dtype=bool)
        return np.stack([env.reset()[0] for env in self.envs]), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        self.steps += 1
        if self.steps == self.fail_at:
            raise ZeroDivisionError("the native one breaks")
        # Junk in the dead rows: the adapter must not let it through.
        reward = np.full(self.num_envs, 77.0)
        terminated = self.done.copy()
        truncated = self.done.copy()
        observations = []
        for i, env in enumerate(self.envs):
            if self.done[i]:
                observations.append(env.reset()[0])
            else:
                observation, reward[i], terminated[i], truncated[i], _ = env.step(actions[i])
                observations.append(observation)
        self.done = (terminated | truncated) & ~self.done
        return np.stack(observations), reward, terminated, truncated, {}


class FaultyEnvironment(CountingEnvironment):
    """Misbehaves at step `at` of its life, if it is number `faulty` of those made since `created` was set back."""

    created = itertools.count()

    def __init__(self, fault: str = "", at: int = 0, faulty: int = 0, schedule: Schedule = ((1_000, "terminated"),)):
        index = next(FaultyEnvironment.created)
        super().__init__(index, schedule)
        if fault == "constructor":
            reward_of(nonsense=1)  # type: ignore[call-arg]
        if fault == "dependency":
            raise gym.error.DependencyNotInstalled("box2d is missing, run `pip install box2d`")
        self.fault = fault if index == faulty else ""
        self.at, self.life = at, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        observation, info = super().reset(seed=seed, options=options)
        if self.life == self.at and self.fault == "reset_nan":
            observation[1] = np.nan
        if self.life == self.at and self.fault == "reset_raise":
            raise KeyError("reset breaks")
        return observation, info

    def step(self, action: np.int64) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        self.life += 1
        if self.life == self.at:
            if self.fault == "raise":
                raise ZeroDivisionError("the environment breaks")
            if self.fault in ("nan", "inf", "-inf"):
                observation[2] = float(self.fault)
            if self.fault == "outside":
                observation[0] = -3
            if self.fault == "shape":
                observation = np.zeros((2, 2), dtype=np.float32)
            if self.fault == "dtype":
                observation = observation.astype(np.float64)
            if self.fault == "list":
                observation = observation.tolist()
            if self.fault in ("reward nan", "reward inf"):
                reward = float(self.fault.removeprefix("reward "))
        return observation, reward, terminated, truncated, info


for _name, _class in (("Counting-v0", CountingEnvironment), ("Faulty-v0", FaultyEnvironment)):
    if _name not in gym.registry:
        gym.register(id=_name, entry_point=_class)
if "CountingNative-v0" not in gym.registry:
    gym.register(id="CountingNative-v0", entry_point=None, vector_entry_point=CountingVectorEnvironment)
