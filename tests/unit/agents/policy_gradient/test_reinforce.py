"""REINFORCE: returns to the end of episodes, baselines, what is left out, and its gradient by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rayloom.contract import TensorSpec, Trajectory
from rayloom_agents.equations.returns import rewards_to_go
from rayloom_agents.policy_gradient.reinforce import REINFORCE

SPEC = {
    "observation": TensorSpec(shape=(2,), dtype=torch.float32),
    "action": TensorSpec(shape=(), dtype=torch.int64, num_values=3),
}


def made(**settings: Any) -> REINFORCE:
    torch.manual_seed(0)
    return REINFORCE(REINFORCE.Config(gamma=0.5, hidden_sizes=(4,), **settings), SPEC)


def column(*values: float) -> Tensor:
    return torch.tensor(values).unsqueeze(1)


def trajectory() -> Trajectory:
    """Return five steps of one environment: the episode ends after the second, one is cut off after the third."""
    generator = torch.Generator().manual_seed(1)
    false = torch.zeros(5, 1, dtype=torch.bool)
    terminated, truncated = false.clone(), false.clone()
    terminated[1], truncated[2] = True, True
    return {
        "observation": torch.randn(5, 1, 2, generator=generator),
        "next_observation": torch.randn(5, 1, 2, generator=generator),
        "action": torch.tensor([[0], [1], [2], [0], [1]]),
        "reward": column(1, 2, 3, 4, 5),
        "terminated": terminated,
        "truncated": truncated,
        "valid": ~false,
    }


def test_rewards_to_go_by_hand() -> None:
    steps = trajectory()
    discounts = 0.5 * (~steps["terminated"]).float()
    values = column(10, 20, 30, 40, 50)
    ended = steps["terminated"] | steps["truncated"]
    returns, complete = rewards_to_go(steps["reward"], discounts, values, ended)
    last = 5 + 0.5 * 50
    torch.testing.assert_close(returns, column(1 + 0.5 * 2, 2, 3 + 0.5 * 30, 4 + 0.5 * last, last))
    assert complete.flatten().tolist() == [True, True, True, False, False]


def test_without_a_value_unfinished_episodes_count_nothing() -> None:
    algorithm = made(baseline="none", normalize_returns=False)
    rows = algorithm.prepare(trajectory())
    assert rows["counts"].tolist() == [True, True, True, False, False]
    torch.testing.assert_close(rows["advantage"][:3], torch.tensor([2.0, 2.0, 3.0]))
    found = algorithm.loss(rows)
    assert found.count is not None and found.count.tolist() == [1, 1, 1, 0, 0]
    assert found.per_example[3:].tolist() == [0, 0] and float(found.metrics["complete"]) == pytest.approx(0.6)
    assert not any(parameter.requires_grad for parameter in algorithm.value.parameters())
    assert len(algorithm.phases()[0].parameters) == len(list(algorithm.policy.parameters()))


def test_the_mean_is_that_of_the_steps_that_count() -> None:
    advantage = made(baseline="mean", normalize_returns=False).prepare(trajectory())["advantage"][:3]
    torch.testing.assert_close(advantage, torch.tensor([2.0, 2.0, 3.0]) - 7 / 3)
    scaled = made(baseline="mean").prepare(trajectory())["advantage"][:3]
    assert float(scaled.mean()) == pytest.approx(0, abs=1e-6) and float(scaled.square().mean()) == pytest.approx(
        1, rel=1e-5
    )


def test_a_learnt_value_completes_and_is_subtracted() -> None:
    algorithm, steps = made(normalize_returns=False), trajectory()
    with torch.no_grad():
        rows = algorithm.prepare(steps)
        value, after = (algorithm.value(steps[name]).flatten() for name in ("observation", "next_observation"))
    last = 5 + 0.5 * after[4]
    expected = torch.stack((torch.tensor(2.0), torch.tensor(2.0), 3 + 0.5 * after[2], 4 + 0.5 * last, last))
    torch.testing.assert_close(rows["return"], expected)
    torch.testing.assert_close(rows["advantage"], expected - value)
    assert rows["counts"].all()


def test_the_gradient_is_the_score_times_the_return() -> None:
    """d/dz of -G log softmax(z)[a] is G (softmax(z) - 1_a)."""
    algorithm = made(baseline="none", normalize_returns=False)
    rows = algorithm.prepare(trajectory())
    outputs = algorithm.policy(rows["observation"]).detach().requires_grad_(True)
    algorithm.policy = torch.nn.Identity()  # type: ignore[assignment]
    algorithm.loss({**rows, "observation": outputs}).per_example.sum().backward()
    assert outputs.grad is not None
    expected = rows["advantage"].unsqueeze(1) * (outputs.softmax(1) - torch.nn.functional.one_hot(rows["action"], 3))
    torch.testing.assert_close(outputs.grad[:3], expected[:3].detach())
    assert not outputs.grad[3:].any()


def test_dead_steps_are_no_rows() -> None:
    steps = trajectory()
    steps["valid"][2] = False
    steps["reward"][2] = 1e9
    with torch.no_grad():
        rows = made(normalize_returns=False).prepare(steps)
    assert len(rows["return"]) == 4 and float(rows["advantage"].abs().max()) < 1e3
