"""Environments of one id that are not alike."""

from __future__ import annotations

import itertools
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from rayloom.config.sources import OnPolicySourceConfig
from rayloom.contract import TensorSpec
from rayloom.errors import UserError
from rayloom.rollouts.environment import Environment
from rayloom.rollouts.making import check_alike, make_environment

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


class _Space(gym.Env[Any, Any]):
    def __init__(self, seen: gym.Space[Any], choices: gym.Space[Any]) -> None:
        self.observation_space, self.action_space = seen, choices


def _made(seen: gym.Space[Any], choices: gym.Space[Any]) -> Environment:
    mode = gym.vector.AutoresetMode.SAME_STEP
    return Environment(gym.vector.SyncVectorEnv([lambda: _Space(seen, choices)] * 2, autoreset_mode=mode))


_SEEN, _CHOICES = gym.spaces.Box(-1.0, 1.0, (3,), np.float32), gym.spaces.Discrete(2)
_NESTED = gym.spaces.Dict({"position": _SEEN, "camera": gym.spaces.Box(0, 255, (4, 4, 1), np.uint8)})


@pytest.mark.parametrize(
    ("seen", "choices", "told"),
    [
        (gym.spaces.Box(-1.0, 1.0, (4,), np.float32), _CHOICES, r"observation is \[4\] of .* and not \[3\] of float32"),
        (gym.spaces.Box(-1.0, 2.0, (3,), np.float32), _CHOICES, r"observation is .*\(2\.0, 2\.0, 2\.0\) and not"),
        (gym.spaces.Box(-1.0, 1.0, (3,), np.float64), _CHOICES, None),  # the engine keeps both in float32
        (gym.spaces.Box(0, 1, (3,), np.uint8), _CHOICES, r"observation is \[3\] of uint8"),
        (gym.spaces.Discrete(3), _CHOICES, r"observation is \[\] of int64, 3 values"),
        (_NESTED, _CHOICES, r"observation is absent and not"),
        (_SEEN, gym.spaces.Discrete(3), r"action is \[\] of int64, 3 values and not \[\] of int64, 2 values"),
        (_SEEN, gym.spaces.Box(-1.0, 1.0, (2,), np.float32), r"action is \[2\] of float32"),
    ],
)
def test_another_process_has_the_spaces_of_the_run(
    seen: gym.Space[Any], choices: gym.Space[Any], told: str | None
) -> None:
    spec = {**_made(_SEEN, _CHOICES).spec, "label": TensorSpec(shape=(), dtype=torch.int64)}
    check_alike(_made(_SEEN, _CHOICES), spec, "source.env", "environments 0 to 1")
    if told is None:
        check_alike(_made(seen, choices), spec, "source.env", "environments 0 to 1")
        return
    with pytest.raises(UserError, match=rf"^source\.env: environments 0 to 1 have other spaces than the run: {told}"):
        check_alike(_made(seen, choices), spec, "source.env", "environments 0 to 1")


def test_parts_of_dicts_are_compared_and_bounds_only_where_they_matter() -> None:
    spec = _made(_NESTED, _CHOICES).spec
    with pytest.raises(UserError, match=r"observation\.camera is absent and not \[4, 4, 1\] of uint8"):
        check_alike(_made(gym.spaces.Dict({"position": _SEEN}), _CHOICES), spec, "source.env", "they")
    wider = _made(gym.spaces.Box(-9.0, 9.0, (3,), np.float32), _CHOICES)
    check_alike(wider, _made(_SEEN, _CHOICES).spec, "evaluate", "they", bounds=False)
