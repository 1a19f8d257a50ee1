"""Masks that forbid every action: refused where one must be chosen, allowed where an episode has ended."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv

from rayloom.errors import EnvironmentFault
from rayloom.rollouts.environment import Environment
from rayloom.rollouts.masks import check_masks


class _Masked(gym.Env[Any, Any]):
    def __init__(self, action_space: gym.Space[Any]) -> None:
        self.action_space = action_space
        self.observation_space = gym.spaces.Dict({"action_mask": gym.spaces.MultiBinary(5)})


def _environment(action_space: gym.Space[Any]) -> Environment:
    vector = SyncVectorEnv([lambda: _Masked(action_space)] * 2)
    return Environment(vector, first_index=4, worker=2)


@pytest.mark.parametrize(
    ("space", "allowed"),
    [(gym.spaces.Discrete(5), [0, 0, 0, 0, 0]), (gym.spaces.MultiDiscrete([2, 3]), [0, 0, 1, 1, 1])],
)
def test_the_environment_and_the_step_are_named(space: gym.Space[Any], allowed: list[int]) -> None:
    environment = _environment(space)
    environment.steps = 10
    masks, valid = np.ones((3, 2, 5), np.int8), np.ones((3, 2), np.bool_)
    check_masks(environment, {"action_mask": masks}, valid)
    masks[1, 1] = allowed
    with pytest.raises(EnvironmentFault, match="environment 5 of rollout worker 2 returned at its step 8 an action_ma"):
        check_masks(environment, {"action_mask": masks}, valid)
    valid[1, 1] = False  # nobody chose there
    check_masks(environment, {"action_mask": masks}, valid)


def test_a_mask_of_something_else_is_left_alone() -> None:
    environment = _environment(gym.spaces.Discrete(3))
    check_masks(environment, {"action_mask": np.zeros((3, 2, 5), np.int8)}, np.ones((3, 2), np.bool_))
