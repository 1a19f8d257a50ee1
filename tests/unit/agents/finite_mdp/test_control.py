"""Tabular control: the books' updates by hand, what each method calls a successor's worth, and that it gets there."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cases import case
from rayloom.contract import TensorSpec, Trajectory, UserError
from rayloom.runs.learner_role import LearnerRole
from rayloom_agents.finite_mdp.control import ExpectedSarsa, MonteCarlo, QLearning, Sarsa, TabularControl
from rayloom_agents.finite_mdp.model import make_finite, read_model
from trained_roles import train_role

SPEC = {
    "observation": TensorSpec(shape=(), dtype=torch.int64, num_values=3),
    "action": TensorSpec(shape=(), dtype=torch.int64, num_values=2),
}
TABLE = torch.tensor([[1.0, 2.0], [5.0, 3.0], [0.0, 8.0]], dtype=torch.float64)


def made(kind: type[TabularControl], **settings: Any) -> TabularControl:
    """Return an algorithm with the table above and a fifth of random actions."""
    given = {"gamma": 0.5, "exploration_start": 0.2, "exploration_end": 0.2, **settings}
    algorithm = kind(kind.Config(**given), SPEC)
    algorithm.q.copy_(TABLE)
    return algorithm


def trajectory(**changes: Any) -> Trajectory:
    """Return two steps of one environment: 0 -(0)-> 1 -(1)-> 2."""
    flags = {name: torch.zeros(2, 1, dtype=torch.bool) for name in ("terminated", "truncated", "first")}
    steps: Trajectory = {
        "observation": torch.tensor([[0], [1]]),
        "action": torch.tensor([[0], [1]]),
        "reward": torch.tensor([[1.0], [2.0]]),
        "next_observation": torch.tensor([[1], [2]]),
        "valid": torch.ones(2, 1, dtype=torch.bool),
        **flags,
    }
    steps.update({name: torch.tensor(value).unsqueeze(1) for name, value in changes.items()})
    return steps


OF_2 = 0.8 * 8 + 0.2 * 4  # expected in state 2
OF_1 = 0.8 * 5 + 0.2 * 4


@pytest.mark.parametrize(
    ("kind", "settings", "returns"),
    [
        (QLearning, {}, [1 + 0.5 * 5, 2 + 0.5 * 8]),
        (ExpectedSarsa, {}, [1 + 0.5 * OF_1, 2 + 0.5 * OF_2]),
        (Sarsa, {}, [1 + 0.5 * 3, 2 + 0.5 * OF_2]),
        (Sarsa, {"n_step": 2}, [1 + 0.5 * (2 + 0.5 * OF_2), 2 + 0.5 * OF_2]),
        (Sarsa, {"lambda_": 0.5}, [1 + 0.5 * (0.5 * 3 + 0.5 * (2 + 0.5 * OF_2)), 2 + 0.5 * OF_2]),
        # Watkins: action 1 of state 1 is not the best, so the return ends before it.
        (QLearning, {"lambda_": 0.5}, [1 + 0.5 * 5, 2 + 0.5 * 8]),
        (QLearning, {"n_step": 2}, [1 + 0.5 * 5, 2 + 0.5 * 8]),
        (MonteCarlo, {}, [1 + 0.5 * (2 + 0.5 * OF_2), 2 + 0.5 * OF_2]),
    ],
)
def test_returns_of_every_method(kind: type[TabularControl], settings: dict[str, Any], returns: list[float]) -> None:
    found = made(kind, **settings).prepare(trajectory())["return"]
    torch.testing.assert_close(found, torch.tensor(returns, dtype=torch.float64))


def test_ends_of_episodes() -> None:
    terminal = made(MonteCarlo).prepare(trajectory(terminated=[True, False]))["return"]
    torch.testing.assert_close(terminal, torch.tensor([1.0, 2 + 0.5 * OF_2], dtype=torch.float64))
    cut = made(Sarsa).prepare(trajectory(truncated=[True, False]))["return"]
    torch.testing.assert_close(cut, torch.tensor([1 + 0.5 * OF_1, 2 + 0.5 * OF_2], dtype=torch.float64))
    dead = made(Sarsa).prepare(trajectory(valid=[True, False], terminated=[True, False]))
    assert dead["return"].tolist() == [1.0] and dead["observation"].tolist() == [0]


@pytest.mark.parametrize(("step_size", "expected"), [(0.5, 1 + 0.75 * (4 - 1)), (None, (10 * 1 + 2 * 4) / 12)])
def test_two_visits_are_two_updates_towards_their_mean(step_size: float | None, expected: float) -> None:
    algorithm = made(QLearning, step_size=step_size)
    algorithm.visits[0, 0] = 10
    rows = {
        "observation": torch.tensor([0, 0]),
        "action": torch.tensor([0, 0]),
        "return": torch.tensor([3.0, 5.0], dtype=torch.float64),
    }
    algorithm.correct(algorithm.errors(rows).sums, 2.0)
    assert float(algorithm.q[0, 0]) == pytest.approx(expected) and int(algorithm.visits[0, 0]) == 12
    assert torch.equal(algorithm.q[1:], TABLE[1:])


def test_the_book_s_update_after_every_step() -> None:
    """Q-learning of one environment and step is q += alpha (r + gamma max q' - q), step for step."""
    one = {"num_envs": 1, "rollout_steps": 1}
    config = case(
        "q_learning", source=one, learner={"batch_size": 1}, algorithm={"step_size": 0.3}, stop={"env_steps": 200}
    )
    role = LearnerRole(config)
    algorithm = role.algorithm
    assert isinstance(algorithm, QLearning)
    q = torch.zeros_like(algorithm.q)
    seen: list[Trajectory] = []
    prepare = algorithm.prepare
    algorithm.prepare = lambda steps: (seen.append(steps), prepare(steps))[1]  # type: ignore[method-assign]
    train_role(config, role)
    assert len(seen) == 200
    for step in seen:
        state, action, following = (int(step[name]) for name in ("observation", "action", "next_observation"))
        worth = 0.0 if bool(step["terminated"]) else float(q[following].max())
        q[state, action] += 0.3 * (float(step["reward"]) + 0.9 * worth - q[state, action])
    torch.testing.assert_close(algorithm.q, q)


def test_tables_need_numbers() -> None:
    with pytest.raises(UserError, match="QLearning keeps a table, which needs numbered states and actions"):
        LearnerRole(case("q_learning", source={"env": "CartPole-v1"}))
    with pytest.raises(ValueError, match="two kinds of returns"):
        QLearning.Config(n_step=2, lambda_=0.5)


def test_states_that_are_never_left_alone_are_explored() -> None:
    algorithm = made(QLearning, exploration_start=0.5, exploration_end=0.5)
    chosen = algorithm.act(torch.full((4000,), 2), None, torch.Generator().manual_seed(0)).action
    assert float((chosen == 0).float().mean()) == pytest.approx(0.25, abs=0.03)  # type: ignore[union-attr]
    assert set(algorithm.act(torch.tensor([0, 1, 2]), None, None).action.tolist()) == {1, 0}  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["QLearning", "Sarsa", "ExpectedSarsa", "MonteCarlo"])
def test_a_small_lake_is_learnt(kind: str) -> None:
    """The best policy of the lake without slipping, whose return from the start is gamma^5."""
    config = case(
        "q_learning",
        algorithm={"import": f"rayloom_agents.finite_mdp.control:{kind}", "gamma": 0.9, "exploration_steps": 12_000},
        source={"env_options": {"is_slippery": False}, "rollout_steps": 25},
        learner={"batch_size": 100},
        stop={"env_steps": 20_000},
    )
    role = train_role(config)
    env = make_finite("FrozenLake-v1", {"is_slippery": False})
    model, state, value = read_model(env), 0, 1.0
    for _ in range(6):
        action = int(role.algorithm.q[state].argmax())
        reward, row = float(model.rewards[state, action]), model.transitions[state, action]
        if float(row.sum()) == 0:
            break
        state, value = int(row.argmax()), value * 0.9
    assert reward == 1.0 and value == pytest.approx(0.9**5)
