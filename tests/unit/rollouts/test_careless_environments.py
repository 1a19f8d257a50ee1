"""Environments that break the form of a step: what is meant is taken, and everything else is one sentence."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rayloom.config.sources import EnvironmentFields
from rayloom.errors import EnvironmentFault, UserError
from rayloom.rollouts.environment import Environment, IndexedEnvironment
from rayloom.rollouts.making import make_environment
from rayloom.rollouts.spaces import parts_of


class Careless(gym.Env[Any, Any]):
    """Returns what it is told to."""

    def __init__(self, step: Any = None, reset: Any = None, breaks: bool = False) -> None:
        self.observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = gym.spaces.Discrete(2)
        zero = np.zeros(2, np.float32)
        self._step = (zero, 1.0, False, False, {}) if step is None else step
        self._reset = (zero, {}) if reset is None else reset
        self._breaks = breaks

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return self._reset

    def step(self, action: Any) -> Any:
        return self._step

    def close(self) -> None:
        if self._breaks:
            raise RuntimeError("no")


ZERO = np.zeros(2, np.float32)


def stepped(**given: Any) -> Any:
    environment = Environment(
        SyncVectorEnv(
            [lambda: IndexedEnvironment(Careless(**given), "environment 0", True)],
            copy=False,
            autoreset_mode=AutoresetMode.SAME_STEP,
        )
    )
    environment.reset(0)
    return environment.step(np.zeros(1, dtype=np.int64))


@pytest.mark.parametrize("reward", [np.ones(1), np.array(1.0), np.array([[1]]), 1, True, np.float64(1), [1.0]])
def test_a_reward_may_be_an_array_of_one_number(reward: Any) -> None:
    assert stepped(step=(ZERO, reward, False, False, {})).reward.tolist() == [1.0]


@pytest.mark.parametrize("ended", [1, np.bool_(True), np.array([True]), 1.0])
def test_a_truth_value_may_be_an_array_or_a_number(ended: Any) -> None:
    assert stepped(step=(ZERO, 0.0, ended, np.array(False), {})).terminated.tolist() == [True]


class Selfish(dict[str, Any]):
    """An info that holds itself."""

    def __init__(self) -> None:
        super().__init__()
        self["me"] = self


@pytest.mark.parametrize("info", [None, [1], {"a": np.zeros(3), 5: object()}, Selfish(), {"final_obs": 5}])
def test_nothing_is_read_of_what_else_an_environment_says(info: Any) -> None:
    assert stepped(step=(ZERO, 0.0, False, False, info), reset=(ZERO, info)).reward.tolist() == [0.0]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"step": (ZERO, np.ones(2), False, False, {})}, "it must be one number"),
        ({"step": (ZERO, None, False, False, {})}, "the reward None; it must be one number"),
        ({"step": (ZERO, "1.0", False, False, {})}, "it must be one number"),
        ({"step": (ZERO, 10**400, False, False, {})}, "it must be one number"),
        ({"step": (ZERO, 0.0, None, False, {})}, "terminated = None; it must be True or False"),
        ({"step": (ZERO, 0.0, False, "no", {})}, "truncated = 'no'; it must be True or False"),
        ({"step": (ZERO, 0.0, np.array([True, False]), False, {})}, "it must be True or False"),
        ({"step": (ZERO, 0.0, float("nan"), False, {})}, "it must be True or False"),
        ({"step": (ZERO, 0.0, False, {})}, "4 values from step; it must return a tuple of observation, reward"),
        ({"step": ZERO}, "a ndarray from step; it must return a tuple"),
        ({"step": ("abc", 0.0, False, False, {})}, "the observation 'abc'; it must be of type float32"),
        ({"reset": ZERO}, "a ndarray from reset; it must return a tuple of observation, info"),
    ],
)
def test_what_breaks_the_form_of_a_step_is_one_sentence(given: dict[str, Any], told: str) -> None:
    with pytest.raises(EnvironmentFault, match=r"^environment 0 returned at its step") as caught:
        stepped(**given)
    assert told in str(caught.value) and len(str(caught.value)) < 300


def test_an_environment_that_cannot_be_closed_loses_nothing() -> None:
    vector = SyncVectorEnv([lambda: Careless(breaks=True)], autoreset_mode=AutoresetMode.SAME_STEP)
    with pytest.warns(RuntimeWarning, match="could not be closed: RuntimeError: no"):
        Environment(vector).close()


@pytest.mark.parametrize(
    "space", [None, gym.spaces.Dict({}), gym.spaces.Text(5), gym.spaces.Sequence(gym.spaces.Discrete(2))]
)
def test_spaces_that_are_none_of_ours_are_refused(space: Any) -> None:
    with pytest.raises(UserError, match=r"^source\.env: its observation"):
        [part.spec() for part in parts_of(space, "observation")]


def test_options_that_an_environment_refuses_are_named() -> None:
    with pytest.raises(UserError, match=r"^source\.env_options: .* cannot be made with \{'how': 'wrong'\}: no such"):
        make_environment(EnvironmentFields(env="Refusing-v0", env_options={"how": "wrong"}), 1)


def refusing(how: str = "right", **options: Any) -> Careless:
    if how != "right":
        raise ValueError("no such way")
    return Careless()


gym.register("Refusing-v0", entry_point=refusing)
