"""Dynamic programming against linear programming, and bad input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

import rayloom_agents.finite_mdp.random_mdp  # noqa: F401  registers RandomMDP-v0
from cases import case
from rayloom.contract import UserError
from rayloom.runs.learner_role import LearnerRole
from rayloom_agents.equations.finite_mdp import greedy, lambda_returns, n_step_returns, optimal_values, policy_values
from rayloom_agents.finite_mdp.model import FiniteModel, make_finite, read_model
from trained_roles import train_role

WORLDS: list[tuple[str, dict[str, Any]]] = [
    ("FrozenLake-v1", {}),
    ("CliffWalking-v1", {}),
    ("rayloom_agents.finite_mdp.random_mdp:RandomMDP-v0", {"draw": 1}),
    ("rayloom_agents.finite_mdp.random_mdp:RandomMDP-v0", {"draw": 2, "states": 60, "actions": 7}),
]


def model_of(env: str, options: Mapping[str, Any]) -> FiniteModel:
    return read_model(make_finite(env, options))


def optimal_of(model: FiniteModel) -> Tensor:
    return optimal_values(model.transitions, model.rewards, 0.9)


def by_linear_programming(model: FiniteModel, gamma: float) -> np.ndarray:
    """Return the smallest values that no action can better: min sum v subject to v >= r + gamma P v."""
    states, actions, _ = model.transitions.shape
    rows = np.repeat(np.eye(states), actions, axis=0) - gamma * model.transitions.reshape(-1, states).numpy()
    found = linprog(np.ones(states), A_ub=-rows, b_ub=-model.rewards.reshape(-1).numpy(), bounds=(None, None))
    assert found.success
    return found.x


@pytest.mark.parametrize(("env", "options"), WORLDS)
@pytest.mark.parametrize("name", ["value_iteration", "policy_iteration"])
def test_planning_equals_linear_programming(name: str, env: str, options: dict[str, Any]) -> None:
    source = {"env": env, "env_options": options}
    config = case(name, source=source, stop={"updates": 400 if name == "value_iteration" else 40})
    role = train_role(config)
    values = role.algorithm.values.numpy()
    oracle = by_linear_programming(model_of(env, options), 0.9)
    np.testing.assert_allclose(values, oracle, atol=1e-6)
    np.testing.assert_allclose(optimal_of(model_of(env, options)), oracle, atol=1e-6)


def test_a_model_says_what_the_environment_does() -> None:
    """Frequencies of a hundred thousand steps are the model's, terminal ones included."""
    env = gym.make("RandomMDP-v0", states=3, actions=2, branching=2, ending=0.3)
    model = read_model(env)
    counts, rewards = np.zeros((3, 2, 3)), np.zeros((3, 2))
    unwrapped = env.unwrapped
    state, _ = unwrapped.reset(seed=0)
    chance = np.random.default_rng(0)
    for _ in range(60_000):
        action = int(chance.integers(2))
        following, reward, terminated, _, _ = unwrapped.step(action)
        rewards[state, action] = reward
        if terminated:
            counts[state, action] += 0
            following, _ = unwrapped.reset()
        else:
            counts[state, action, following] += 1
        state = following
    totals = counts.sum(2) / 0.7
    np.testing.assert_allclose(counts / totals[..., None], model.transitions.numpy(), atol=0.02)
    np.testing.assert_allclose(rewards, model.rewards.numpy(), atol=1e-12)


def test_policy_values_by_hand() -> None:
    # Two states: 0 pays 1 and goes to 1, which pays 2 and ends with probability 1/2, else stays.
    transitions = torch.tensor([[0.0, 1.0], [0.0, 0.5]], dtype=torch.float64)
    rewards = torch.tensor([1.0, 2.0], dtype=torch.float64)
    second = 2 / (1 - 0.9 * 0.5)
    expected = torch.tensor([1 + 0.9 * second, second], dtype=torch.float64)
    torch.testing.assert_close(policy_values(transitions, rewards, 0.9), expected)


def test_a_present_action_that_is_as_good_stays() -> None:
    values = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    assert greedy(values).tolist() == [0, 2] and greedy(values, torch.tensor([1, 1])).tolist() == [1, 2]


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).unsqueeze(1)


def test_returns_by_hand() -> None:
    # Three steps: the episode is cut off after the second (its successor is worth 10), the third starts another one.
    rewards, values = column(1, 2, 3), column(4, 10, 20)
    discounts, continues = column(0.5, 0.5, 0.5), column(1, 0, 1)
    g3 = 3 + 0.5 * 20
    g2 = 2 + 0.5 * 10
    g1 = 1 + 0.5 * (0.75 * 4 + 0.25 * g2)
    torch.testing.assert_close(lambda_returns(rewards, discounts, values, continues, 0.25), column(g1, g2, g3))
    torch.testing.assert_close(n_step_returns(rewards, discounts, values, continues, 1), column(3, g2, g3))
    torch.testing.assert_close(n_step_returns(rewards, discounts, values, continues, 2), column(1 + 0.5 * g2, g2, g3))
    torch.testing.assert_close(
        n_step_returns(rewards, discounts, values, continues, 7),
        lambda_returns(rewards, discounts, values, continues, 1.0),
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": {"env": "CartPole-v1", "env_options": {}}}, "CartPole-v1 has no table P of its transitions"),
        ({"source": {"env": "FrozenLok-v1", "env_options": {}}}, r"source\.env: .*FrozenLok"),
        ({"source": {"env": "no_such_module:Thing-v0", "env_options": {}}}, r"source\.env: .*no_such_module"),
    ],
)
def test_mistakes_are_a_sentence(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LearnerRole(case("value_iteration", **changes))


def test_planning_needs_a_model() -> None:
    planning = case("value_iteration")
    config = replace(case("q_learning"), algorithm_path=planning.algorithm_path, algorithm=planning.algorithm)
    with pytest.raises(UserError, match=r"ValueIteration needs the model of its environment; use source\.import"):
        LearnerRole(config)
