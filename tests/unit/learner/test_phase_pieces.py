"""Shared parameters, groups, conditions, steps after the step, counts and weights: against plain torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from rayloom.config.optimizers import OPTIMIZERS
from rayloom.config.schema import LearnerConfig
from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Loss, Phase, Progress
from rayloom.errors import UserError
from rayloom.learner.learner import Learner
from rayloom.testing.learners import SimulatedGroup, simulate

ADAM = LearnerConfig(optimizer=OPTIMIZERS.component("adam", learning_rate=0.05))


class _Net(Algorithm):
    """A trunk and two heads; `make` says how they are trained."""

    def __init__(self, make: Callable[[Any], list[Phase]]) -> None:
        super().__init__(AlgorithmConfig(), {})
        torch.manual_seed(0)
        self.trunk, self.left, self.right = nn.Linear(3, 4), nn.Linear(4, 1), nn.Linear(4, 1)
        self._make = make

    def phases(self) -> list[Phase]:
        return self._make(self)

    def loss_of(self, head: str) -> Callable[[Batch], Loss]:
        def loss(batch: Batch) -> Loss:
            found = getattr(self, head)(self.trunk(batch["x"]).tanh()).squeeze(1)
            error = (found - batch["y"]).square() * batch.get("elements", torch.ones(()))
            return Loss(error, {"error": error.detach().abs()}, count=batch.get("elements"))

        return loss


def _batch(rows: int = 12, **fields: torch.Tensor) -> Batch:
    generator = torch.Generator().manual_seed(2)
    return {"x": torch.randn(rows, 3, generator=generator), "y": torch.randn(rows, generator=generator), **fields}


def _run(algorithm: Algorithm, batch: Batch, updates: int = 4, config: LearnerConfig = ADAM) -> Learner:
    learner = Learner(algorithm, config)
    for update in range(updates):
        algorithm.progress.updates = update
        learner.update(lambda: batch, lambda loss: None)
    return learner


def _same(one: nn.Module, other: nn.Module) -> None:
    for (name, mine), theirs in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("limit", [None, 0.1])
def test_phases_that_share_parameters_have_optimiser_states_of_their_own(limit: float | None) -> None:
    def make(net: _Net) -> list[Phase]:
        return [
            Phase("left", net.loss_of("left"), (*net.trunk.parameters(), *net.left.parameters())),
            Phase("right", net.loss_of("right"), (*net.right.parameters(), *net.trunk.parameters())),
        ]

    algorithm, plain, batch = _Net(make), _Net(make), _batch()
    learner = _run(
        algorithm, batch, config=LearnerConfig(optimizer=OPTIMIZERS.component(learning_rate=0.05), max_grad_norm=limit)
    )
    assert [len(phase.flats) for phase in learner.phases] == [2, 2]  # type: ignore[union-attr]
    phases = plain.phases()
    optimizers = [torch.optim.Adam(phase.parameters, lr=0.05) for phase in phases]
    for _ in range(4):
        for phase, optimizer in zip(phases, optimizers, strict=True):
            plain.zero_grad()
            phase.loss(batch).per_example.mean().backward()
            if limit:
                nn.utils.clip_grad_norm_(phase.parameters, limit)
            optimizer.step()
    _same(algorithm, plain)
    state = learner.state_dict()
    copy = _Net(make)
    Learner(copy, ADAM).load_state_dict(state, learner.own_state_dict())
    _same(copy, algorithm)


def test_groups_have_settings_of_their_own() -> None:
    def make(net: _Net) -> list[Phase]:
        biases = tuple(p for name, p in net.named_parameters() if name.endswith("bias"))
        groups = ((biases, {"weight_decay": 0.0, "learning_rate": 0.01}),)
        every = tuple(net.parameters())
        return [
            Phase(
                "all",
                net.loss_of("left"),
                every,
                {"kind": "adamw", "learning_rate": 0.05, "weight_decay": 0.3},
                groups=groups,
            )
        ]

    algorithm, plain, batch = _Net(make), _Net(make), _batch()
    _run(algorithm, batch)
    named = dict(plain.named_parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for n, p in named.items() if n.endswith("weight")], "weight_decay": 0.3},
            {"params": [p for n, p in named.items() if n.endswith("bias")], "weight_decay": 0.0, "lr": 0.01},
        ],
        lr=0.05,
    )
    for _ in range(4):
        for parameter in plain.parameters():  # those without a part in the loss have the gradient 0 in the learner
            parameter.grad = torch.zeros_like(parameter)
        plain.phases()[0].loss(batch).per_example.mean().backward()
        optimizer.step()
    _same(algorithm, plain)


def test_a_condition_sees_the_counters_before_the_update_and_switches_the_phase() -> None:
    asked: list[int] = []

    def early(progress: Progress) -> bool:
        asked.append(progress.updates)
        return progress.updates < 2

    def make(net: _Net) -> list[Phase]:
        return [
            Phase("left", net.loss_of("left"), tuple(net.left.parameters()), when=early),
            Phase("right", net.loss_of("right"), tuple(net.right.parameters()), when=lambda p: p.updates >= 2),
        ]

    algorithm, batch = _Net(make), _batch()
    start = _Net(make)
    learner = _run(algorithm, batch, updates=2)
    assert torch.equal(algorithm.right.weight, start.right.weight)
    middle = algorithm.left.weight.detach().clone()
    assert not torch.equal(middle, start.left.weight)
    for update in (2, 3):
        algorithm.progress.updates = update
        learner.update(lambda: batch, lambda loss: None)
    assert torch.equal(algorithm.left.weight, middle)
    assert not torch.equal(algorithm.right.weight, start.right.weight)
    assert asked == [0, 1, 2, 3]


def test_a_run_in_which_nothing_can_change_any_more_is_refused() -> None:
    algorithm = _Net(lambda net: [Phase("a", net.loss_of("left"), tuple(net.parameters()), when=lambda p: False)])
    with pytest.raises(UserError, match=r"_Net.phases\(\): in update 1 the `when` of every phase is false"):
        _run(algorithm, _batch())


def test_after_each_step_the_parameters_are_clipped() -> None:
    calls: list[bool] = []

    def make(net: _Net) -> list[Phase]:
        def clip() -> None:
            calls.append(torch.is_grad_enabled())
            for parameter in net.left.parameters():
                parameter.clamp_(-0.02, 0.02)

        return [Phase("left", net.loss_of("left"), tuple(net.left.parameters()), repeat=3, after_step=clip)]

    algorithm = _Net(make)
    _run(algorithm, _batch(), updates=2)
    assert calls == [False] * 6
    assert float(algorithm.left.weight.detach().abs().max()) == pytest.approx(0.02)


def test_the_step_is_divided_by_the_sum_of_the_counts_and_metrics_alike() -> None:
    elements, weight = torch.tensor([3.0, 0, 1, 5] * 3), torch.linspace(0.5, 2, 12)
    batch = _batch(elements=elements, weight=weight)

    def make(net: _Net) -> list[Phase]:
        return [Phase("all", net.loss_of("left"), tuple(net.parameters()))]

    algorithm, plain = _Net(make), _Net(make)
    sgd = LearnerConfig(optimizer=OPTIMIZERS.component("sgd", learning_rate=1.0))
    learner = _run(algorithm, batch, 1, sgd)
    per_example = plain.phases()[0].loss(batch).per_example
    objective = (per_example * weight).sum() / 27
    objective.backward()
    assert learner.drain_metrics() == {
        "loss": pytest.approx(float(objective.detach())),
        "error": pytest.approx(float(objective.detach())),
    }
    for mine, theirs in zip(algorithm.parameters(), plain.parameters(), strict=True):
        moved = 0 if theirs.grad is None else theirs.grad
        torch.testing.assert_close(mine.detach(), theirs.detach() - moved)


def test_a_batch_in_which_nothing_counts_changes_nothing() -> None:
    def make(net: _Net) -> list[Phase]:
        return [Phase("all", net.loss_of("left"), tuple(net.parameters()))]

    algorithm, start = _Net(make), _Net(make)
    learner = _run(algorithm, _batch(elements=torch.zeros(12)), 1)
    _same(algorithm, start)
    assert learner.drain_metrics() == {}


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("cuts", [(0, 5, 12), (0, 1, 4, 12)])
def test_several_learners_repeat_one_learners_update_and_its_metrics(counted: bool, cuts: tuple[int, ...]) -> None:
    fields = {"elements": torch.tensor([3.0, 0, 1, 5] * 3)} if counted else {}
    batch = _batch(weight=torch.linspace(0.5, 2, 12), **fields)

    def make(net: _Net) -> list[Phase]:
        return [
            Phase("left", net.loss_of("left"), (*net.trunk.parameters(), *net.left.parameters())),
            Phase("right", net.loss_of("right"), (*net.right.parameters(), *net.trunk.parameters())),
        ]

    config = LearnerConfig(optimizer=OPTIMIZERS.component("sgd", learning_rate=0.5, momentum=0.9), max_grad_norm=0.3)
    alone = _Net(make)
    whole = _run(alone, batch, 3, config).drain_metrics()
    algorithms = [_Net(make) for _ in cuts[1:]]

    def learn(group: SimulatedGroup) -> tuple[Algorithm, dict[str, float]]:
        share = {name: value[cuts[group.rank] : cuts[group.rank + 1]] for name, value in batch.items()}
        learner = Learner(algorithms[group.rank], config, group)
        for _ in range(3):
            learner.update(lambda: share, lambda loss: None)
        return algorithms[group.rank], learner.drain_metrics()

    for algorithm, metrics in simulate(len(cuts) - 1, learn):
        _same(algorithm, alone)
        assert metrics == {name: pytest.approx(value, rel=1e-5) for name, value in whole.items()}
