"""R2D2: unrolling from stored memories, burn-in without gradient, n-step targets in a sequence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rayloom.contract import TensorSpec, UserError
from rayloom_agents.equations.returns import rescale, unscale
from rayloom_agents.value_based.r2d2 import R2D2

SPEC = {
    "observation": TensorSpec(shape=(3,), dtype=torch.float32),
    "action": TensorSpec(shape=(), dtype=torch.int64, num_values=2),
}
SIZE = 4


def made(**settings: Any) -> R2D2:
    torch.manual_seed(0)
    algorithm = R2D2(R2D2.Config(memory_size=SIZE, hidden_sizes=(5,), gamma=0.5, **settings), SPEC)
    with torch.no_grad():
        for parameter in algorithm.target.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return algorithm


def sequences(rows: int = 2, burn_in: int = 2, length: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    steps = burn_in + length
    flags = {name: torch.zeros(rows, steps, dtype=torch.bool) for name in ("terminated", "truncated", "first")}
    observation = torch.randn(rows, steps + 1, 3, generator=generator)
    return {
        "observation": observation[:, :-1],
        "next_observation": observation[:, 1:].clone(),
        "action": torch.randint(0, 2, (rows, steps), generator=generator),
        "reward": torch.randn(rows, steps, generator=generator),
        "valid": torch.ones(rows, steps, dtype=torch.bool),
        "burn_in": (torch.arange(steps) < burn_in).expand(rows, steps),
        "memory": torch.randn(rows, steps, 2 * SIZE, generator=generator),
        **flags,
    }


def test_the_memory_begins_as_it_was_stored_and_goes_on() -> None:
    algorithm, batch = made(), sequences()
    values, following = algorithm._unrolled(algorithm.online, batch)
    memory = batch["memory"][:, 0]
    for t in range(6):
        value, memory = algorithm.online.step(batch["observation"][:, t], memory)
        torch.testing.assert_close(values[t], value)
        torch.testing.assert_close(following[t], algorithm.online.step(batch["next_observation"][:, t], memory)[0])


def test_an_episode_begins_without_memory_and_a_gap_with_the_stored_one() -> None:
    algorithm, batch = made(), sequences()
    batch["first"][0, 3] = True
    batch["valid"][1, :2] = False
    values, _ = algorithm._unrolled(algorithm.online, batch)
    fresh, _ = algorithm.online.step(batch["observation"][:1, 3], torch.zeros(1, 2 * SIZE))
    torch.testing.assert_close(values[3, :1], fresh)
    stored, _ = algorithm.online.step(batch["observation"][1:, 2], batch["memory"][1:, 2])
    torch.testing.assert_close(values[2, 1:], stored)


def test_no_gradient_flows_through_the_burn_in() -> None:
    algorithm, batch = made(), sequences()
    for name, expected in (("burn_in", False), ("learnt", True)):
        observation = batch["observation"].clone().requires_grad_(True)
        algorithm.loss({**batch, "observation": observation}).per_example.sum().backward()
        assert observation.grad is not None
        columns = observation.grad[:, :2] if name == "burn_in" else observation.grad[:, 2:]
        assert bool(columns.abs().sum() > 0) is expected


@pytest.mark.parametrize("n_step", [1, 3])
def test_targets_stay_inside_the_episode_and_the_sequence(n_step: int) -> None:
    algorithm, batch = made(n_step=n_step), sequences(rows=1, burn_in=0, length=5)
    batch["terminated"][0, 1] = True
    batch["truncated"][0, 3] = True
    bootstrap = torch.tensor([[10.0], [20.0], [30.0], [40.0], [50.0]])
    r = batch["reward"][0].tolist()
    one = [r[0] + 5, r[1], r[2] + 15, r[3] + 20, r[4] + 25]
    three = [r[0] + 0.5 * r[1], r[1], r[2] + 0.5 * one[3], one[3], one[4]]
    found = algorithm._targets(batch, bootstrap).flatten()
    torch.testing.assert_close(found, torch.tensor(one if n_step == 1 else three))


def test_steps_that_never_happened_count_nothing() -> None:
    algorithm, batch = made(), sequences()
    whole = algorithm.loss(batch)
    assert whole.count is not None and whole.count.tolist() == [4, 4]
    batch["valid"][0, 4:] = False
    batch["reward"][0, 4:] = 1e9
    found = algorithm.loss(batch)
    assert found.count is not None and found.count.tolist() == [2, 4]
    assert float(found.per_example[0].detach()) < 1e3 and found.priorities is not None
    torch.testing.assert_close(found.per_example[1], whole.per_example[1])


def test_rescaling_and_back() -> None:
    values = torch.tensor([-300.0, -1.0, 0.0, 0.5, 10_000.0], dtype=torch.float64)
    torch.testing.assert_close(unscale(rescale(values)), values)
    assert float(rescale(torch.tensor(3.0))) == pytest.approx(1.003)


def test_it_says_what_it_needs() -> None:
    with pytest.raises(UserError, match=r"source\.sequence_length: R2D2 learns from sequences"):
        made().prepare({"observation": torch.zeros(1, 3)})
    with pytest.raises(UserError, match="R2D2 needs a discrete action space"):
        R2D2(R2D2.Config(), {**SPEC, "action": TensorSpec(shape=(1,), dtype=torch.float32)})
