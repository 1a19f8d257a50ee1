"""Transitions that a rollout worker returns, and the arrays that it writes them into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from rayloom.contract import spread_parts
from rayloom.rollouts.environment import Step
from rayloom.rollouts.spaces import Values, count_rows


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
    observation: Values,
    first: np.ndarray,
    action: Values,
    extras: Mapping[str, Tensor],
    step: Step,
) -> None:
    """Write what happened in step `t` into the chunk; `first` [N]: whether the observation begins an episode."""
    if isinstance(observation, np.ndarray) and isinstance(action, np.ndarray):
        storage["observation"][t] = observation
        storage["action"][t] = action
        storage["next_observation"][t] = step.next_observation
    else:
        nested = {"observation": observation, "action": action, "next_observation": step.next_observation}
        for field_name, values in nested.items():
            for name, value in spread_parts(field_name, values).items():
                storage[name][t] = value
    storage["first"][t] = first
    storage["reward"][t] = step.reward
    storage["terminated"][t] = step.terminated
    storage["truncated"][t] = step.truncated
    storage["valid"][t] = step.valid
    for name, value in extras.items():
        storage[name][t] = value.numpy()


def allocate_chunk(
    storage: dict[str, np.ndarray],
    num_steps: int,
    observation: Values,
    action: Values,
    extras: Mapping[str, Tensor],
) -> None:
    """Make the arrays of a chunk of `num_steps` steps."""
    for field_name, values in (("observation", observation), ("next_observation", observation), ("action", action)):
        for name, value in spread_parts(field_name, values).items():
            storage[name] = np.empty((num_steps, *value.shape), value.dtype)
    number = count_rows(observation)
    storage["reward"] = np.empty((num_steps, number), np.float32)
    for name in ("terminated", "truncated", "valid", "first"):
        storage[name] = np.empty((num_steps, number), np.bool_)
    for name, value in extras.items():
        array = value.numpy()
        storage[name] = np.empty((num_steps, *array.shape), array.dtype)


def concatenate_rollouts(rollouts: list[Rollout]) -> dict[str, np.ndarray]:
    """Join the rollouts of all workers along their environments: arrays [T, N, ...] with N over all workers."""
    if len(rollouts) == 1:
        return rollouts[0].arrays
    return {name: np.concatenate([rollout.arrays[name] for rollout in rollouts], axis=1) for name in rollouts[0].arrays}
