"""Nested observations and actions: every part is true in every autoreset mode, and faults name the part."""

from __future__ import annotations

import itertools
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from hypothesis import given, settings
from test_environment import many_schedules, single_loop

from counting_environment import CountingEnvironment, Schedule
from nested_environment import ACTIONS, PARTS, NestedEnvironment, parts_at
from rayloom.config.sources import EnvironmentFields
from rayloom.contract import gather_parts, spread_parts
from rayloom.errors import EnvironmentFault, UserError
from rayloom.rollouts.environment import Environment, spec_of
from rayloom.rollouts.making import make_environment
from rayloom.rollouts.spaces import Values, nest


class BatchedFinal(gym.vector.VectorWrapper[Any, Any, Any, Any, Any]):
    """Gives last observations as a nested batch with a mask, as native environments may."""

    def step(self, actions: Any) -> Any:
        observation, *step, infos = self.env.step(actions)
        if "final_obs" in infos:
            batch: Any = gym.vector.utils.create_empty_array(self.single_observation_space, self.num_envs)
            rows = [
                final if final is not None else self.single_observation_space.sample() for final in infos["final_obs"]
            ]
            infos["final_obs"] = gym.vector.utils.concatenate(self.single_observation_space, rows, batch)
        return observation, *step, infos


def nested_vector(kind: str, schedules: list[Schedule], **options: Any) -> VectorEnv[Any, Any, Any]:
    makers = [lambda i=i, s=s: NestedEnvironment(i, s, **options) for i, s in enumerate(schedules)]
    if kind == "shared":
        return SyncVectorEnv(makers, copy=False, autoreset_mode=AutoresetMode.SAME_STEP)
    if kind == "batched":
        return BatchedFinal(SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP))
    return SyncVectorEnv(makers, autoreset_mode=AutoresetMode[kind])


def choose(position: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return actions of every part for positions [N, 3], counted from 0, and the rewards that they earn."""
    total = position.astype(np.int64).sum(axis=1)
    push = np.stack([total % 3 - 1, total % 2], axis=1) / 2
    parts = {
        "move": total % 3,
        "turn": np.stack([total % 2, total % 3], axis=1),
        "push.0": push.astype(np.float64),
        "push.1": np.stack([total % 2, (total + 1) % 2], axis=1),
    }
    reward = (parts["move"] + 4) + 10 * (parts["turn"] + [5, 6]).sum(axis=1) + 1_000 * push.sum(axis=1)
    return parts, reward + 100 * parts["push.1"].sum(axis=1)


def assert_parts(values: Values, position: np.ndarray) -> None:
    assert isinstance(values, dict) and tuple(values) == tuple(sorted(PARTS, key=list(values).index))
    for name, expected in parts_at(position).items():
        assert values[name].dtype == expected.dtype, name
        np.testing.assert_array_equal(values[name], expected, err_msg=name)


@pytest.mark.parametrize("kind", ["NEXT_STEP", "SAME_STEP", "DISABLED", "shared", "batched"])
@settings(max_examples=25, deadline=None, derandomize=True)
@given(schedules=many_schedules)
def test_every_part_is_true_in_every_mode(kind: str, schedules: list[Schedule]) -> None:
    environment = Environment(nested_vector(kind, schedules), check_every_step=True)
    observation = environment.reset(seed=3)
    truth = [iter(single_loop(i, schedule, 15)) for i, schedule in enumerate(schedules)]
    begins = np.ones(len(schedules), bool)
    for _ in range(12):
        position = observation["position"].copy()
        assert_parts(observation, position)
        action, reward = choose(position)
        step = environment.step(action)
        assert_parts(step.next_observation, step.next_observation["position"])
        for i in np.flatnonzero(step.valid):
            true = next(truth[i])
            assert tuple(position[i]) == true.observation
            assert bool(begins[i]) == (true.observation[2] == 0)
            assert tuple(step.next_observation["position"][i]) == true.next_observation
            assert step.reward[i] == np.float32(reward[i])
            assert (step.terminated[i], step.truncated[i]) == (true.terminated, true.truncated)
        observation, begins = step.observation, step.begins


def test_the_spec_has_every_part() -> None:
    spec = spec_of(Environment(nested_vector("SAME_STEP", [[(3, "terminated")]])))
    shapes = {name: (one.shape, one.dtype, one.num_values) for name, one in spec.items()}
    assert shapes == {
        "observation.position": ((3,), torch.float32, None),
        "observation.camera.left": ((2, 3), torch.uint8, None),
        "observation.camera.depth": ((2,), torch.float32, None),
        "observation.where.0": ((), torch.int64, 7),
        "observation.where.1": ((2,), torch.int64, (50, 60)),
        "observation.flags": ((3,), torch.int8, (2, 2, 2)),
        "action.move": ((), torch.int64, 3),
        "action.push.0": ((2,), torch.float32, None),
        "action.push.1": ((2,), torch.int64, (2, 2)),
        "action.turn": ((2,), torch.int64, (2, 3)),
    }
    assert spec["observation.camera.left"].high == (255.0,) * 6


def test_whole_spaces_of_categories() -> None:
    class Switches(CountingEnvironment):
        def __init__(self) -> None:
            super().__init__()
            self.observation_space = gym.spaces.MultiBinary(2)
            self.action_space = gym.spaces.MultiDiscrete([2, 4], start=[1, 0])

        def _observe(self) -> np.ndarray:
            return np.array([self.steps % 2, 1], np.int8)

        def step(self, action: Any) -> Any:
            assert self.action_space.contains(action)
            self.steps += 1
            return self._observe(), float(action[0] * 10 + action[1]), False, False, {}

    environment = Environment(SyncVectorEnv([Switches, Switches]), check_every_step=True)
    assert spec_of(environment)["action"].num_values == (2, 4)
    assert spec_of(environment)["observation"].num_values == (2, 2)
    assert environment.reset(0).tolist() == [[0, 1], [0, 1]]
    step = environment.step(np.array([[0, 3], [1, 0]]))
    assert step.reward.tolist() == [13.0, 20.0]
    assert step.next_observation.tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("nan", "at its step 3 the observation.camera.depth[1] = nan"),
        ("outside", "at its step 3 the observation.where.0 = 9, outside its space [0, 6]"),
        ("shape", "at its step 3 an observation.camera.left of shape (3, 3) instead of (2, 3)"),
        ("dtype", "at its step 3 an observation.camera.left of type float32 instead of uint8"),
        ("missing", "at its step 3 an observation without its part 'flags'"),
    ],
)
@pytest.mark.parametrize("every", [True, False])
def test_faults_name_the_part(fault: str, message: str, every: bool) -> None:
    source = EnvironmentFields(env="nested_environment:Nested-v0", env_options={"fault": fault})
    environment = make_environment(source, 2, first_index=4, worker=1, check_every_step=every)
    observation = environment.reset(0)
    steps = []
    with pytest.raises(EnvironmentFault) as caught:
        for _ in range(4):
            steps.append(environment.step(choose(observation["position"])[0]))
        seen = {name: np.stack([s.next_observation[name] for s in steps]) for name in PARTS}
        environment.check(seen, np.stack([s.reward for s in steps]))
    assert str(caught.value).startswith(f"environment 4 of rollout worker 1 returned {message}")


def test_keys_must_be_plain_words() -> None:
    env = CountingEnvironment()
    env.observation_space = gym.spaces.Dict({"a.b": gym.spaces.Discrete(2)})  # type: ignore[assignment]
    with pytest.raises(UserError, match=r"'a\.b'; keys must be words without a dot"):
        Environment(SyncVectorEnv([lambda: env]))


def test_parts_are_gathered_and_spread() -> None:
    tensors = {"observation.a": 1, "observation.b.0": 2, "action": 3, "next_observation.a": 4}
    assert gather_parts(tensors, "observation") == {"a": 1, "b.0": 2}
    assert gather_parts(tensors, "action") == 3
    assert spread_parts("observation", {"a": 1, "b.0": 2}) | spread_parts("action", 3) == dict(
        itertools.islice(tensors.items(), 3)
    )
    assert nest(ACTIONS, {"move": 1, "push.0": 2, "push.1": 3, "turn": 4}) == {"move": 1, "push": (2, 3), "turn": 4}
