"""Wrappers around single environments: those of a config, and the one that makes fields of `info` observations."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np

from rayloom.config.import_path import import_object, suggest
from rayloom.errors import EnvironmentFault, UserError


class TimeLimit(gym.wrappers.TimeLimit[Any, Any]):
    """Truncate episodes after `max_episode_steps`."""

    def __init__(self, env: gym.Env[Any, Any], max_episode_steps: int) -> None:
        super().__init__(env, max_episode_steps)


class ClipReward(gym.RewardWrapper[Any, Any]):
    """Clip rewards to `low`..`high`, as Mnih et al. 2015 do."""

    def __init__(self, env: gym.Env[Any, Any], low: float = -1.0, high: float = 1.0) -> None:
        super().__init__(env)
        self._low, self._high = low, high

    def reward(self, reward: Any) -> float:
        """Return the clipped reward."""
        return float(min(max(reward, self._low), self._high))


WRAPPERS: dict[str, type[gym.Wrapper[Any, Any, Any, Any]]] = {"time_limit": TimeLimit, "clip_reward": ClipReward}


def resolve_wrappers(
    wrappers: Sequence[Mapping[str, Any]],
) -> list[Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]]:
    """Return what wraps an environment, the innermost first; UserError for what is no wrapper or has other settings."""
    return [_resolve(dict(settings), f"source.wrappers[{place}]") for place, settings in enumerate(wrappers)]


def _resolve(settings: dict[str, Any], key: str) -> Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]:
    if ("kind" in settings) == ("import" in settings):
        raise UserError(f"{key}: needs either kind ({', '.join(WRAPPERS)}) or import (module:Wrapper)")
    if "kind" in settings:
        kind = settings.pop("kind")
        if kind not in WRAPPERS:
            raise UserError(f"{key}.kind: there is no wrapper {kind!r}{suggest(str(kind), WRAPPERS)}")
        found: Any = WRAPPERS[kind]
    else:
        path = settings.pop("import")
        found = import_object(str(path), f"{key}.import")
        if not (isinstance(found, type) and issubclass(found, gym.Wrapper)):
            raise UserError(f"{key}.import: {path} is not a subclass of gymnasium.Wrapper")
    parameters = inspect.signature(found).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        known = list(parameters)[1:]  # without the environment
        for name in settings:
            if name not in known:
                raise UserError(f"{key}.{name}: {found.__name__} has no such setting{suggest(name, known)}")
        needed = [name for name in known if parameters[name].default is inspect.Parameter.empty]
        for name in needed:
            if name not in settings and parameters[name].kind is not inspect.Parameter.VAR_POSITIONAL:
                raise UserError(f"{key}.{name}: {found.__name__} needs this setting; add it")
    return partial(found, **settings)


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
