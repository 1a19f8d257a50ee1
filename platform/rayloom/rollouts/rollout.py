"""The arrays of transitions that a rollout worker returns: made, written, joined."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from rayloom.contract import Rollout, spread_parts
from rayloom.memory import check_fits
from rayloom.rollouts.environment import Step
from rayloom.rollouts.spaces import Values, count_rows


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


def _arrays(values: Values) -> list[np.ndarray]:
    return [values] if isinstance(values, np.ndarray) else list(values.values())


def allocate_chunk(
    storage: dict[str, np.ndarray],
    num_steps: int,
    observation: Values,
    action: Values,
    extras: Mapping[str, Tensor],
) -> None:
    """Make the arrays of a chunk of `num_steps` steps."""
    size = num_steps * sum(value.nbytes for values in (observation, observation, action) for value in _arrays(values))
    check_fits(size, "source.rollout_steps", f"{num_steps:,} steps of {count_rows(observation):,} environments")
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
