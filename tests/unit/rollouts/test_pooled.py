"""Environments of envpool behind the same step: true transitions, seeds, and what is told to whom lacks something."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import rayloom
from cases import case
from cut_runs import without_its_end
from rayloom.config.sources import EnvironmentFields
from rayloom.errors import UserError
from rayloom.launch.run import resume
from rayloom.rollouts.environment import Environment
from rayloom.rollouts.making import make_environment

needs_envpool = pytest.mark.skipif(
    find_spec("envpool") is None, reason="envpool is not installed: pip install 'rayloom[envpool]' (740 MB)"
)


def pooled(env: str = "CartPole-v1", num_envs: int = 3, first_index: int = 0, **fields: Any) -> Environment:
    return make_environment(EnvironmentFields(env=env, vectorization="envpool", **fields), num_envs, first_index)


@needs_envpool
def test_a_finished_episode_ends_truly_and_its_dead_step_is_marked() -> None:
    environment = pooled(env_options={"max_episode_steps": 7})
    observation = environment.reset(0)
    single: Any = gym.make("CartPole-v1").unwrapped
    episodes = 0
    for _ in range(60):
        action = np.full(3, 1, np.int64)
        step = environment.step(action)
        for i in range(3):
            if not step.valid[i]:
                assert step.begins[i] and step.reward[i] == 0
                assert not step.terminated[i] and not step.truncated[i]
                continue
            single.reset()
            single.state = tuple(np.asarray(observation)[i].astype(np.float64))
            following, _, terminated, *_ = single.step(1)
            np.testing.assert_allclose(np.asarray(step.next_observation)[i], following, rtol=1e-4, atol=1e-5)
            assert step.terminated[i] == terminated
            episodes += bool(step.terminated[i] or step.truncated[i])
        observation = step.observation
    assert episodes >= 18
    environment.close()


@needs_envpool
def test_a_reset_with_a_seed_begins_the_same_episodes_again() -> None:
    environment = pooled("Hopper-v5")
    first = np.array(environment.reset(5))
    action = np.zeros((3, 3))
    after = [np.array(environment.step(action).observation) for _ in range(40)]
    assert not np.array_equal(first, np.array(environment.reset(6)))
    np.testing.assert_array_equal(first, np.array(environment.reset(5)))
    again = [np.array(environment.step(action).observation) for _ in range(40)]
    np.testing.assert_array_equal(after, again)
    assert not np.array_equal(first, np.array(pooled("Hopper-v5", first_index=3).reset(5)))
    assert len({tuple(row) for row in first}) == 3  # environments of one pool differ


@needs_envpool
def test_a_bound_that_is_none_is_not_checked() -> None:
    environment = pooled("LunarLander-v3")
    environment.reset(0)
    assert np.isneginf(environment.observation_space.low).all()  # type: ignore[attr-defined]


@needs_envpool
def test_a_run_repeats_itself_and_goes_on_exactly(tmp_path: Path) -> None:
    config = case("ppo", str(tmp_path), source={"vectorization": "envpool"}, checkpoint={"every": "256 env_steps"})
    whole = rayloom.run(config, local=True)
    assert rayloom.run(config, local=True).weights_sha256 == whole.weights_sha256
    elsewhere = tmp_path / "cut"
    elsewhere.mkdir()
    gone_on = resume(without_its_end(whole, elsewhere), output=str(elsewhere))
    assert gone_on.weights_sha256 == whole.weights_sha256
    assert rayloom.run(config, "source.vectorization=auto", local=True).weights_sha256 != whole.weights_sha256


@needs_envpool
@pytest.mark.parametrize(
    ("env", "fields", "told"),
    [
        ("CartPole-v9", {}, r"envpool has no environment 'CartPole-v9'.*did you mean 'CartPole-v\d'"),
        ("CartPole-v1", {"env_options": {"seed": 3}}, r"env_options\.seed: the engine sets this itself"),
        ("CartPole-v1", {"env_options": {"colour": 3}}, r"env_options: envpool cannot make CartPole-v1 .*colour"),
        ("CartPole-v1", {"info_fields": ("mask",)}, r"source\.info_fields: environments of envpool cannot"),
    ],
)
def test_mistakes_are_sentences(env: str, fields: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        pooled(env, **fields)


def test_without_envpool_one_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(UserError, match=r"source\.vectorization: envpool is not installed; run `pip install"):
        pooled()


def test_a_loop_steps_one_by_one_what_has_a_vector_environment_of_its_own() -> None:
    loop = make_environment(EnvironmentFields(env="CartPole-v1", vectorization="loop"), 2)
    assert loop.autoreset_mode is gym.vector.AutoresetMode.SAME_STEP
