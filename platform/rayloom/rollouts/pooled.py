"""Environments that envpool steps in C++ (`source.vectorization: envpool`), as a Gymnasium vector environment.

envpool seeds its environments when it makes them, and a reset goes on with their generators. Here a reset with a seed
makes them anew, so that a run which goes on from a checkpoint sees the same episodes as one that was never interrupted.
"""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv

from rayloom.config.import_path import suggest
from rayloom.errors import UserError

_OURS = ("num_envs", "batch_size", "num_threads", "seed", "env_type", "env_seed", "gym_reset_return_info")
_KEY = "source.vectorization"


class PooledEnvironments(VectorEnv[Any, Any, Any]):
    """N environments of envpool, stepped together: nobody waits for a part of them, so that steps come in order."""

    def __init__(self, env_id: str, num_envs: int, threads: int, options: Mapping[str, Any]) -> None:
        """Make them; UserError without envpool, and for an id or options that it does not know."""
        try:
            envpool: Any = importlib.import_module("envpool")
        except ImportError:
            raise UserError(
                f"{_KEY}: envpool is not installed; run `pip install 'rayloom[envpool]'`, or write auto"
            ) from None
        known = envpool.list_all_envs()
        if env_id not in known:
            raise UserError(f"{_KEY}: envpool has no environment {env_id!r}{suggest(env_id, known)}; write auto")
        for option in _OURS:
            if option in options:
                raise UserError(f"source.env_options.{option}: the engine sets this itself; remove it")
        self._make: Callable[[int], Any] = lambda seed: _made(
            envpool, env_id, options, num_envs=num_envs, num_threads=threads, seed=seed
        )
        self._pool = self._make(0)
        self.num_envs = num_envs
        self.metadata = dict(self._pool.metadata)
        with _no_word_on_precision():
            self.single_observation_space = _true_bounds(self._pool.observation_space)
            self.single_action_space = self._pool.action_space

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin episodes everywhere; with a seed those of newly made environments."""
        if seed is not None:
            self._pool.close()
            self._pool = self._make(int(seed))
        with _no_word_on_precision():
            observation, _ = self._pool.reset()
        return observation, {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step all of them."""
        observation, reward, terminated, truncated, _ = self._pool.step(actions)
        return observation, reward, terminated, truncated, {}

    def close(self, **_: Any) -> None:
        """End its threads."""
        self._pool.close()


@contextlib.contextmanager
def _no_word_on_precision() -> Iterator[None]:
    """Spaces of envpool give their bounds in float64, at which Gymnasium wonders."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*precision lowered", category=UserWarning)
        yield


def _true_bounds(space: gym.Space[Any]) -> gym.Space[Any]:
    """Return the space without bounds where envpool writes C++'s least positive float for "no lower bound"."""
    if not isinstance(space, gym.spaces.Box) or not np.issubdtype(space.dtype, np.floating):
        return space
    low = np.where(space.low == np.finfo(np.float32).tiny, -np.inf, space.low)
    high = np.where(space.high == np.finfo(np.float32).max, np.inf, space.high)
    dtype: Any = space.dtype
    return gym.spaces.Box(low.astype(dtype), high.astype(dtype), dtype=dtype)


def _made(envpool: Any, env_id: str, options: Mapping[str, Any], **ours: Any) -> Any:
    try:
        with _no_word_on_precision():
            return envpool.make(env_id, env_type="gymnasium", **options, **ours)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        if not options:
            raise
        said = " ".join(str(error).split())[:200]
        raise UserError(
            f"source.env_options: envpool cannot make {env_id} with {dict(options)!r:.200}: {said}"
        ) from None
