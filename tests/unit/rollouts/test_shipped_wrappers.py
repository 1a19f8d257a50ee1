"""What the shipped wrappers show of an environment, and what they refuse."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from rayloom.config.load import from_tree
from rayloom.contract import UserError
from rayloom.rollouts.making import make_environment


def make(env: str, *wrappers: dict[str, Any]) -> Any:
    source = {"kind": "on_policy", "env": env, "num_envs": 2, "wrappers": list(wrappers)}
    ppo = {"import": "rayloom_agents.policy_gradient.ppo:PPO"}
    config = from_tree({"name": "wrapped", "algorithm": ppo, "source": source, "stop": {"updates": 1}})
    return make_environment(config.source, 2)


def test_only_the_chosen_elements_are_shown() -> None:
    # Wrapped too, since the native vector environment draws otherwise.
    whole, shown = (
        make("CartPole-v1", {"kind": "clip_reward"}),
        make("CartPole-v1", {"kind": "select_observation", "elements": [2, 0]}),
    )
    np.testing.assert_array_equal(whole.reset(3)[:, [2, 0]], shown.reset(3))
    assert shown.observation_space.shape == (2,) and shown.spec["observation"].shape == (2,)
    np.testing.assert_array_equal(shown.observation_space.high, whole.observation_space.high[[2, 0]])
    action = np.array([0, 1])
    np.testing.assert_array_equal(whole.step(action).next_observation[:, [2, 0]], shown.step(action).next_observation)


def test_actions_are_stretched() -> None:
    whole, scaled = make("Pendulum-v1"), make("Pendulum-v1", {"kind": "rescale_action", "low": -0.5, "high": 1.5})
    assert scaled.action_space.low.tolist() == [-0.5] and scaled.action_space.high.tolist() == [1.5]
    whole.reset(0), scaled.reset(0)
    # Pendulum takes -2..2: the middle 0.5 is 0, and 1 is half way to the end.
    one, other = whole.step(np.array([[0.0], [1.0]])), scaled.step(np.array([[0.5], [1.0]]))
    np.testing.assert_allclose(one.next_observation, other.next_observation, rtol=1e-6)


def test_the_time_that_is_left_falls_and_starts_anew() -> None:
    environment = make(
        "CartPole-v1", {"kind": "time_limit", "max_episode_steps": 4}, {"kind": "time_feature", "max_episode_steps": 4}
    )
    assert environment.reset(0)[:, 4].tolist() == [1.0, 1.0]
    left = [environment.step(np.array([0, 1])) for _ in range(4)]
    assert [float(step.next_observation[0, 4]) for step in left] == [0.75, 0.5, 0.25, 0.0]
    assert left[-1].truncated.all() and left[-1].observation[:, 4].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("env", "wrapper", "message"),
    [
        ("CartPole-v1", {"kind": "rescale_action"}, "rescale_action needs real actions with bounds, not Discrete"),
        ("Pendulum-v1", {"kind": "rescale_action", "low": 1, "high": 1}, "needs low < high, not 1 and 1"),
        (
            "CartPole-v1",
            {"kind": "select_observation", "elements": [4]},
            "element 4 of an observation with the elements 0",
        ),
        ("FrozenLake-v1", {"kind": "select_observation", "elements": [0]}, "needs observations that are real vectors"),
        ("FrozenLake-v1", {"kind": "time_feature", "max_episode_steps": 9}, "time_feature needs observations that are"),
    ],
)
def test_what_does_not_fit_is_refused(env: str, wrapper: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(env, wrapper)


def test_gymnasium_s_own_agrees() -> None:
    """The share of time left is gymnasium's TimeAwareObservation turned round."""
    aware = gym.wrappers.TimeAwareObservation(gym.make("CartPole-v1"), flatten=True, normalize_time=True)
    environment = make("CartPole-v1", {"kind": "time_feature", "max_episode_steps": 500})
    aware.reset(seed=0)
    environment.reset(0)
    for _ in range(3):
        theirs, ours = aware.step(0)[0][-1], environment.step(np.array([0, 0])).next_observation[0, -1]
        assert ours == pytest.approx(1 - float(theirs), abs=1e-6)
