"""Action masks that environments return: one that forbids every action leaves nothing to choose."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rayloom.contract import TensorSpec, gather_parts
from rayloom.errors import EnvironmentFault
from rayloom.rollouts.environment import Environment, environment_name
from rayloom.rollouts.spaces import Array, Values

_MASK = "action_mask"


def check_masks(environment: Environment, observations: Values, valid: Array) -> None:
    """Raise EnvironmentFault for the first of the last T steps whose action mask forbade every action.

    observations: what was acted on [T, N, ...]; valid: [T, N], false where a step belongs to no episode. What an
    episode ends with is not acted on, and may forbid everything. A mask that has not one element for each discrete
    action is not looked at.
    """
    if not isinstance(observations, Mapping) or _MASK not in observations:
        return
    action = gather_parts(environment.spec, "action")
    numbers = action.num_values if isinstance(action, TensorSpec) else None
    choices = [numbers] if isinstance(numbers, int) else list(numbers or ())
    masks = observations[_MASK].reshape(*valid.shape, -1)
    if not choices or masks.shape[2] != sum(choices):
        return
    parts = np.split(masks != 0, np.cumsum(choices)[:-1], axis=2)
    stuck = ~np.logical_and.reduce([part.any(axis=2) for part in parts]) & valid
    if stuck.any():
        first = int(stuck.reshape(-1).argmax())
        name = environment_name(environment.first_index + first % environment.num_envs, environment.worker)
        step = environment.steps - len(valid) + first // environment.num_envs
        raise EnvironmentFault(
            f"{name} returned at its step {step} an action_mask that forbids every action; allow one at least, or end "
            "the episode there"
        )
