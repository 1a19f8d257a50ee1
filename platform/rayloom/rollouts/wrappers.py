"""Wrappers around single environments: the shipped ones, and the one that makes fields of `info` observations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from rayloom.config.import_path import suggest
from rayloom.config.sources import (
    ClipRewardConfig,
    RescaleActionConfig,
    SelectObservationConfig,
    TimeFeatureConfig,
    TimeLimitConfig,
)
from rayloom.errors import EnvironmentFault, UserError


class TimeLimit(gym.wrappers.TimeLimit[Any, Any]):
    """Truncate episodes after a number of steps."""

    Config = TimeLimitConfig

    def __init__(self, config: TimeLimitConfig, env: gym.Env[Any, Any]) -> None:
        super().__init__(env, config.max_episode_steps)


class ClipReward(gym.RewardWrapper[Any, Any]):
    """Clip rewards, as Mnih et al. 2015 do."""

    Config = ClipRewardConfig

    def __init__(self, config: ClipRewardConfig, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self._config = config

    def reward(self, reward: Any) -> float:
        """Return the clipped reward."""
        return float(min(max(reward, self._config.low), self._config.high))


class RescaleAction(gym.wrappers.RescaleAction[Any, Any, Any]):
    """Give real actions another range."""

    Config = RescaleActionConfig

    def __init__(self, config: RescaleActionConfig, env: gym.Env[Any, Any]) -> None:
        space = env.action_space
        if not isinstance(space, gym.spaces.Box) or not space.is_bounded():
            raise UserError(f"source.wrappers: rescale_action needs real actions with bounds, not {space}")
        if not config.low < config.high:
            raise UserError(f"source.wrappers: rescale_action needs low < high, not {config.low:g} and {config.high:g}")
        super().__init__(env, np.float32(config.low), np.float32(config.high))


class SelectObservation(gym.ObservationWrapper[Any, Any, Any]):
    """Show only some elements of a vector observation."""

    Config = SelectObservationConfig

    def __init__(self, config: SelectObservationConfig, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        space = _vector_space(env, "select_observation")
        if max(config.elements) >= space.shape[0]:
            raise UserError(
                f"source.wrappers: select_observation asks for element {max(config.elements)} of an observation with "
                f"the elements 0 to {space.shape[0] - 1}"
            )
        self._elements = list(config.elements)
        self.observation_space = gym.spaces.Box(
            space.low[self._elements], space.high[self._elements], dtype=_type(space)
        )

    def observation(self, observation: Any) -> Any:
        """Return what is shown."""
        return np.asarray(observation)[self._elements]


class TimeFeature(gym.Wrapper[Any, Any, Any, Any]):
    """Add the share of its time that an episode has left as the last element of a vector observation."""

    Config = TimeFeatureConfig

    def __init__(self, config: TimeFeatureConfig, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        space = _vector_space(env, "time_feature")
        self._longest, self._steps = config.max_episode_steps, 0
        low, high = np.append(space.low, 0), np.append(space.high, 1)
        self.observation_space = gym.spaces.Box(low.astype(space.dtype), high.astype(space.dtype), dtype=_type(space))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin with all the time."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._steps = 0
        return self._with_time(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the environment."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._steps += 1
        return self._with_time(observation), reward, terminated, truncated, info

    def _with_time(self, observation: Any) -> Any:
        left = max(0.0, 1.0 - self._steps / self._longest)
        return np.append(observation, left).astype(self.observation_space.dtype)


def _vector_space(env: gym.Env[Any, Any], wrapper: str) -> gym.spaces.Box:
    """Return the observation space of real vectors that a wrapper needs."""
    space = env.observation_space
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1 or np.dtype(space.dtype).kind != "f":
        raise UserError(f"source.wrappers: {wrapper} needs observations that are real vectors, not {space}")
    return space


def _type(space: gym.spaces.Box) -> Any:
    return space.dtype


class InfoFields(gym.Wrapper[Any, Any, Any, Any]):
    """Makes fields of `info` parts of the observation.

    A Dict observation gets them beside its own keys; any other becomes the part "observation". Their shapes and types
    are those of the first reset.
    """

    def __init__(self, env: gym.Env[Any, Any], fields: Sequence[str]) -> None:
        super().__init__(env)
        self._fields = tuple(fields)
        self._has_parts = isinstance(env.observation_space, gym.spaces.Dict)
        own: dict[str, gym.Space[Any]]
        own = dict(env.observation_space.spaces) if self._has_parts else {"observation": env.observation_space}  # type: ignore[attr-defined]
        for name in self._fields:
            if name in own:
                raise UserError(f"source.info_fields: the observation already has a part {name!r}; remove it")
        _, info = env.reset(seed=0)
        for name in self._fields:
            if name not in info:
                raise UserError(f"source.info_fields: info of a reset has no {name!r}{suggest(name, info)}")
            own[name] = _space_of(np.asarray(info[name]), name)
        self.observation_space = gym.spaces.Dict(own)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the environment."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._lift(observation, info), reward, terminated, truncated, info

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._lift(observation, info), info

    def _lift(self, observation: Any, info: Mapping[str, Any]) -> dict[str, Any]:
        parts = dict(observation) if self._has_parts else {"observation": observation}
        for name in self._fields:
            if name not in info:
                raise EnvironmentFault(f"source.info_fields: an environment gave no {name!r} in info")
            parts[name] = np.array(info[name])
        return parts


def _space_of(value: np.ndarray[Any, Any], name: str) -> gym.spaces.Box:
    """Return a space that holds any value of this shape and type."""
    kept: Any = value.dtype
    if kept.kind not in "fbiu":
        raise UserError(f"source.info_fields: {name} holds {kept}, not numbers; remove it")
    if kept.kind == "f":
        low, high = -np.inf, np.inf
    else:
        low, high = (0, 1) if kept.kind == "b" else (int(np.iinfo(kept).min), int(np.iinfo(kept).max))
    return gym.spaces.Box(low, high, value.shape, kept)
