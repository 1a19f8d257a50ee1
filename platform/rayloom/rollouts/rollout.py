"""Transitions that a rollout worker returns, and the arrays that it writes them into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from rayloom.rollouts.environment import Step


@dataclass(frozen=True)
class Rollout:
    """What one call of `collect` returns."""

    arrays: dict[str, np.ndarray]
    """Time-major arrays [T, N, ...]: the keys of a Trajectory."""
    episodes: list[tuple[float, int]]
    """Undiscounted return and length (steps) of every episode that ended, in order."""
    env_steps: int
    """Valid transitions among the T * N."""
    version: int = 0
    """The policy's version: what the source published last before the rollout was ordered."""
    worker: int = 0
    """The rollout worker's index over the whole run."""
    restarted: bool = False
    """Whether it does not continue the episodes of the worker's rollout before: the worker was replaced or, in a
    stream, restarted at a barrier."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """How the worker spent its time since the rollout before, by activity (seconds); see `rayloom.timeline`. In the
    learner's own process the worker's `wait` is the learner's work."""
    memory_mib: float = 0.0
    """Size of the worker's process (MiB); 0 in the learner's own process."""


def record_step(
    storage: Mapping[str, np.ndarray],
    t: int,
    observation: np.ndarray,
    action: np.ndarray,
    extras: Mapping[str, Tensor],
    step: Step,
) -> None:
    """Write what happened in step `t` into the chunk."""
    storage["observation"][t] = observation
    storage["action"][t] = action
    storage["reward"][t] = step.reward
    storage["next_observation"][t] = step.next_observation
    storage["terminated"][t] = step.terminated
    storage["truncated"][t] = step.truncated
    storage["valid"][t] = step.valid
    for name, value in extras.items():
        storage[name][t] = value.numpy()


def allocate_chunk(
    storage: dict[str, np.ndarray],
    num_steps: int,
    observation: np.ndarray,
    action: np.ndarray,
    extras: Mapping[str, Tensor],
) -> None:
    number = observation.shape[0]
    storage["observation"] = np.empty((num_steps, *observation.shape), observation.dtype)
    storage["next_observation"] = np.empty((num_steps, *observation.shape), observation.dtype)
    storage["action"] = np.empty((num_steps, *action.shape), action.dtype)
    storage["reward"] = np.empty((num_steps, number), np.float32)
    for name in ("terminated", "truncated", "valid"):
        storage[name] = np.empty((num_steps, number), np.bool_)
    for name, value in extras.items():
        array = value.numpy()
        storage[name] = np.empty((num_steps, *array.shape), array.dtype)


def concatenate_rollouts(rollouts: list[Rollout]) -> dict[str, np.ndarray]:
    """Join the rollouts of all workers along their environments: arrays [T, N, ...] with N over all workers."""
    if len(rollouts) == 1:
        return rollouts[0].arrays
    return {name: np.concatenate([rollout.arrays[name] for rollout in rollouts], axis=1) for name in rollouts[0].arrays}
