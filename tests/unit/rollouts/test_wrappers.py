"""Wrappers from the config, fields of `info` in the observation, and stacks of observations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from annotated_types import Gt
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from counting_environment import CountingEnvironment
from rayloom.config.sources import EnvironmentFields
from rayloom.config.validation import plain, validate
from rayloom.errors import EnvironmentFault, UserError
from rayloom.rollouts.environment import Environment
from rayloom.rollouts.frame_stack import StackedEnvironment
from rayloom.rollouts.making import make_environment, make_rendered
from rayloom.rollouts.wrappers import InfoFields

COUNTING, MASKED = "counting_environment:Counting-v0", "nested_environment:Masked-v0"
FOREVER = {"schedule": [(1_000, "terminated")]}


@dataclass(frozen=True, kw_only=True)
class ScaleConfig:
    """Settings of Scale."""

    factor: Annotated[float, Gt(0)] = 2.0
    """What rewards are multiplied by."""


class Scale(gym.RewardWrapper[Any, Any]):
    """Multiplies the reward, with a Config beside it."""

    Config = ScaleConfig

    def __init__(self, config: ScaleConfig, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.config = config

    def reward(self, reward: Any) -> float:
        return float(reward) * self.config.factor


class Anything(gym.Wrapper[Any, Any, Any, Any]):
    """Takes whatever it is given."""

    def __init__(self, env: gym.Env[Any, Any], **options: Any) -> None:
        raise AssertionError("it is called")


class AddReward(gym.RewardWrapper[Any, Any]):
    """Adds to the reward."""

    def __init__(self, env: gym.Env[Any, Any], amount: float, factor: float = 1.0) -> None:
        super().__init__(env)
        self.amount, self.factor = amount, factor

    def reward(self, reward: Any) -> float:
        return float(reward) * self.factor + self.amount


def make(env: str = COUNTING, num_envs: int = 2, every: bool = True, **fields: Any) -> Environment:
    return make_environment(settings(env=env, **fields), num_envs, check_every_step=every)


def settings(**fields: Any) -> EnvironmentFields:
    return validate(EnvironmentFields, fields, "source")


def test_wrappers_apply_from_the_inside_out() -> None:
    add = {"import": "test_wrappers:AddReward", "amount": 0.25}
    limit = {"kind": "time_limit", "max_episode_steps": 2}
    environment = make(env_options=FOREVER, wrappers=({"kind": "clip_reward", "high": 5}, add, limit))
    environment.reset(0)
    first, second = (environment.step(np.array([2, 0])) for _ in range(2))
    assert first.reward.tolist() == [5.25, 0.25]
    assert second.truncated.all() and not first.truncated.any()
    assert second.next_observation[:, 2].tolist() == [2, 2] and second.observation[:, 2].tolist() == [0, 0]
    other = make(env_options=FOREVER, wrappers=(add, {"kind": "clip_reward", "high": 5}))
    other.reset(0)
    assert other.step(np.array([2, 0])).reward.tolist() == [5.0, 0.25]
    scaled = make(env_options=FOREVER, wrappers=({"import": "test_wrappers:Scale", "factor": 3}, "clip_reward", add))
    scaled.reset(0)
    assert scaled.step(np.array([2, 0])).reward.tolist() == [1.25, 0.25]


def test_settings_of_wrappers_are_written_as_they_were_read() -> None:
    tree = {
        "env": COUNTING,
        "wrappers": [
            {"kind": "clip_reward", "low": -1.0, "high": 5.0},
            {"import": "test_wrappers:AddReward", "amount": 0.5, "factor": 1.0},
            {"import": "test_wrappers:Scale", "factor": 3.0},
            {"import": "gymnasium.wrappers:NormalizeReward", "gamma": 0.9, "epsilon": 1e-8},
        ],
    }
    read = settings(**tree)
    assert plain(read)["wrappers"] == tree["wrappers"]
    assert settings(**plain(read)) == read and hash(read.wrappers) == hash(settings(**plain(read)).wrappers)


def test_a_native_environment_becomes_a_loop_to_be_wrapped() -> None:
    limit = {"import": "gymnasium.wrappers:TimeLimit", "max_episode_steps": 3}
    environment = make("CartPole-v1", wrappers=(limit,))
    assert environment.autoreset_mode is AutoresetMode.SAME_STEP
    environment.reset(0)
    assert [environment.step(np.array([0, 1])).truncated.all() for _ in range(3)] == [False, False, True]
    with pytest.raises(UserError, match=r"source\.wrappers: CountingNative-v0 exists only as a vector environment"):
        make("counting_environment:CountingNative-v0", wrappers=(limit,))


@pytest.mark.parametrize(
    ("wrapper", "sentence"),
    [
        ({}, r"source\.wrappers\.0\.kind: None is no wrapper; the choices are time_limit, clip_reward, rescale_action"),
        ({"kind": "time_limits"}, r"source\.wrappers\.0\.kind: .*did you mean 'time_limit'"),
        ({"kind": "time_limit"}, r"source\.wrappers\.0\.max_episode_steps: this key is required"),
        (
            {"kind": "clip_reward", "hihg": 1},
            r"source\.wrappers\.0\.hihg: clip_reward has no such setting; did you mean 'high'",
        ),
        (
            {"import": "os:system", "command": "true"},
            r"wrappers\.0\.import: os:system is no wrapper; name a subclass of gymnasium\.Wrapper",
        ),
        ({"import": "test_wrappers:AddRewards"}, r"has no 'AddRewards'; did you mean 'AddReward'"),
        ({"import": "test_wrappers:AddReward", "factor": 2}, r"source\.wrappers\.0\.amount: this key is required"),
        ({"import": "test_wrappers:AddReward", "amuont": 2, "amount": 1}, r"amuont: .* did you mean 'amount'"),
        (
            {"import": "test_wrappers:Scale", "factor": 0},
            r"source\.wrappers\.0\.factor: input should be greater than 0",
        ),
        ({"import": "test_wrappers:Anything", "a": 1}, r"Anything takes \*options, .*give it a Config"),
    ],
)
def test_mistakes_in_wrappers_are_one_sentence(wrapper: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        settings(env=COUNTING, wrappers=(wrapper,))


def mask_of(step: np.ndarray) -> np.ndarray:
    return np.arange(3) != step[..., None] % 3


def test_fields_of_info_are_parts_of_the_observation() -> None:
    environment = make(MASKED, info_fields=("action_mask", "phase"))
    shapes = {name: (spec.shape, spec.dtype) for name, spec in environment.spec.items()}
    assert shapes == {
        "observation.observation": ((3,), torch.float32),
        "observation.action_mask": ((3,), torch.bool),
        "observation.phase": ((), torch.int64),
        "action": ((), torch.int64),
    }
    observation: Any = environment.reset(0)
    ends = 0
    for _ in range(14):
        for values in (observation, (step := environment.step(np.array([1, 2]))).next_observation):
            counted = values["observation"][:, 2].astype(int)
            assert (values["phase"] == counted).all() and (values["action_mask"] == mask_of(counted)).all()
        ends += int((step.terminated | step.truncated).sum())
        observation = step.observation
    assert ends > 4


def test_a_dict_keeps_its_own_keys_beside_them() -> None:
    class Dicts(gym.ObservationWrapper[Any, Any, Any]):
        def __init__(self, env: gym.Env[Any, Any]) -> None:
            super().__init__(env)
            self.observation_space = gym.spaces.Dict(state=env.observation_space)

        def observation(self, observation: Any) -> Any:
            return {"state": observation}

    environment = Environment(SyncVectorEnv([lambda: InfoFields(Dicts(gym.make(MASKED)), ["action_mask"])]))
    assert set(environment.spec) == {"observation.state", "observation.action_mask", "action"}
    with pytest.raises(UserError, match="already has a part 'state'"):
        InfoFields(Dicts(gym.make(MASKED)), ["state"])


def test_fields_must_be_there_and_be_numbers() -> None:
    with pytest.raises(UserError, match=r"source\.info_fields: .* no 'action_maks'; did you mean 'action_mask'"):
        make(MASKED, info_fields=("action_maks",))
    with pytest.raises(UserError, match=r"source\.info_fields: word holds <U9, not numbers"):
        make(MASKED, info_fields=("word",))

    class Forgetful(CountingEnvironment):
        def reset(self, **arguments: Any) -> Any:
            return super().reset(**arguments)[0], {"mask": np.ones(3)}

    env = InfoFields(Forgetful(), ["mask"])
    env.reset()
    with pytest.raises(EnvironmentFault, match="an environment gave no 'mask' in info"):
        env.step(np.int64(0))


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_stacks_begin_with_the_episode(mode: AutoresetMode) -> None:
    schedules: Any = [[(5, "terminated"), (1, "truncated"), (2, "both")], [(3, "truncated")]]
    makers = [lambda i=i, s=s: CountingEnvironment(i, s) for i, s in enumerate(schedules)]
    environment = StackedEnvironment(3, SyncVectorEnv(makers, autoreset_mode=mode), 0, 0, True, True)
    assert environment.spec["observation"].shape == (3, 3)
    assert environment.spec["observation"].high == (1000.0,) * 9

    def expected(newest: np.ndarray) -> np.ndarray:
        frames = np.repeat(newest[:, None], 3, axis=1)
        frames[..., 2] = np.maximum(newest[:, None, 2] + np.array([-2, -1, 0]), 0)
        return frames

    observation: Any = environment.reset(0)
    for _ in range(20):
        np.testing.assert_array_equal(observation, expected(observation[:, -1]))
        before = observation.copy()
        step: Any = environment.step(np.zeros(2, np.int64))
        alive = step.valid
        np.testing.assert_array_equal(step.next_observation[alive], expected(step.next_observation[:, -1])[alive])
        np.testing.assert_array_equal(step.next_observation[alive, :-1], before[alive, 1:])
        observation = step.observation
    collected = np.stack([step.next_observation])
    environment.check(collected, step.reward[None])
    collected[0, 1, -1, 0] = np.nan
    with pytest.raises(EnvironmentFault, match=r"environment 1 .* the observation\[0\] = nan"):
        environment.check(collected, step.reward[None])


def test_only_plain_arrays_are_stacked() -> None:
    with pytest.raises(UserError, match=r"source\.frame_stack: .*observation\.action_mask"):
        make(MASKED, info_fields=("action_mask",), frame_stack=2)
    with pytest.raises(UserError, match=r"source\.frame_stack: .*categories"):
        make("FrozenLake-v1", frame_stack=2)


def test_a_rendered_environment_is_wrapped_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CartPoleEnv, "render", lambda self: np.full((2, 2, 3), self.state[0]))
    limit = {"kind": "time_limit", "max_episode_steps": 3}
    environment, render = make_rendered(settings(env="CartPole-v1", wrappers=(limit,), frame_stack=2))
    observation: Any = environment.reset(0)
    for _ in range(3):
        assert np.allclose(render(), observation[0, -1, 0])
        step = environment.step(np.array([1]))
        observation = step.observation
    assert step.truncated.all()
