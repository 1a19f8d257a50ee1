"""Environments of one id that are not alike."""

from __future__ import annotations

import itertools
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from rayloom.config.sources import OnPolicySourceConfig
from rayloom.errors import UserError
from rayloom.rollouts.making import make_environment

_SIZES = itertools.count(3)


class _Growing(gym.Env[Any, Any]):
    """Each one made has one element more to see, or one action more."""

    def __init__(self, of: str) -> None:
        seen, choices = (next(_SIZES), 2) if of == "observation" else (3, next(_SIZES))
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (seen,), np.float32)
        self.action_space = gym.spaces.Discrete(choices)


@pytest.mark.parametrize("of", ["observation", "action"])
def test_spaces_that_differ_are_told_in_one_sentence(of: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gym.registry, "Growing-v0", gym.envs.registration.EnvSpec("Growing-v0", entry_point=_Growing))
    with pytest.raises(
        UserError, match=rf"source.env: Growing-v0 makes environments whose spaces differ \(.*{of}_space="
    ):
        make_environment(
            OnPolicySourceConfig(kind="on_policy", env="Growing-v0", num_envs=2, env_options={"of": of}), 2
        )
