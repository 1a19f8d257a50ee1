"""The learner against a plain torch loop: flattening, weighting, clipping, phases, schedules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from rayloom.components import Component
from rayloom.config.optimizers import OPTIMIZERS
from rayloom.config.schedules import SCHEDULES
from rayloom.config.schema import LearnerConfig
from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Loss, Phase
from rayloom.learner.learner import Learner
from rayloom.learner.metric_sums import MetricSums


class _Regression(Algorithm):
    """Two layers of least squares, in one phase or two."""

    def __init__(self, phases: Any = None) -> None:
        super().__init__(AlgorithmConfig(), {})
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(3, 5), nn.Linear(5, 1)
        self._phases = phases
        self.log: list[str] = []

    def phases(self) -> list[Phase]:
        if self._phases:
            return self._phases(self)
        return [Phase("all", self.loss, tuple(self.parameters()))]

    def loss(self, batch: Batch) -> Loss:
        error = self.second(torch.tanh(self.first(batch["x"]))).squeeze(1) - batch["y"]
        return Loss(error.square(), {"size": error.detach().abs(), "scalar": error.detach().mean()})

    def after_update(self, update: int) -> None:
        self.log.append(f"after {update}")


def _batch(rows: int = 17, weighted: bool = False) -> Batch:
    generator = torch.Generator().manual_seed(1)
    batch = {"x": torch.randn(rows, 3, generator=generator), "y": torch.randn(rows, generator=generator) * 3}
    if weighted:
        batch["weight"] = torch.rand(rows, generator=generator)
    return batch


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("limit", [None, 0.05, 1e6])
@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "rmsprop", "adagrad", "adadelta"])
def test_steps_equal_a_plain_torch_loop(name: Any, limit: float | None, weighted: bool) -> None:
    momentum = {"momentum": 0.9} if name == "sgd" else {}
    optimizer = OPTIMIZERS.component(name, learning_rate=0.05, weight_decay=0.01, **momentum)
    algorithm, plain = _Regression(), _Regression()
    learner = Learner(algorithm, LearnerConfig(optimizer=optimizer, max_grad_norm=limit))
    classes = {
        "adam": lambda p: torch.optim.Adam(p, lr=0.05, weight_decay=0.01),
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.01),
        "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
        "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.05, alpha=0.99, eps=1e-8, weight_decay=0.01),
        "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05, eps=1e-8, weight_decay=0.01),
        "adadelta": lambda p: torch.optim.Adadelta(p, lr=0.05, eps=1e-8, weight_decay=0.01),
    }
    oracle = classes[name](plain.parameters())
    for _ in range(10):
        batch = _batch(weighted=weighted)
        learner.update(lambda batch=batch: batch, lambda loss: None)
        oracle.zero_grad()
        per_example = plain.loss(batch).per_example
        weight = batch.get("weight", torch.ones(17))
        ((per_example * weight).sum() / 17).backward()
        if limit:
            nn.utils.clip_grad_norm_(plain.parameters(), limit)
        oracle.step()
    for mine, theirs in zip(algorithm.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=2e-4, atol=2e-6)


def test_a_clipped_step_has_the_norm_of_the_limit() -> None:
    algorithm = _Regression()
    config = LearnerConfig(optimizer=OPTIMIZERS.component("sgd", learning_rate=1.0), max_grad_norm=0.01)
    before = [p.detach().clone() for p in algorithm.parameters()]
    Learner(algorithm, config).update(_batch, lambda loss: None)
    moved = torch.cat([(a - b).flatten() for a, b in zip(algorithm.parameters(), before, strict=True)])
    assert float(moved.norm()) == pytest.approx(0.01, rel=1e-3)


def test_phases_repeat_skip_and_share_batches_as_the_contract_says() -> None:
    drawn: list[int] = []
    seen: list[tuple[str, int]] = []

    def make(algorithm: _Regression) -> list[Phase]:
        def loss(name: str) -> Any:
            def observe(batch: Batch) -> Loss:
                seen.append((name, int(batch["number"][0])))
                return algorithm.loss(batch)

            return observe

        return [
            Phase("critic", loss("critic"), tuple(algorithm.first.parameters()), repeat=3),
            Phase("actor", loss("actor"), tuple(algorithm.second.parameters()), every=2),
        ]

    def draw() -> Batch:
        drawn.append(len(drawn))
        return {**_batch(), "number": torch.full((17,), len(drawn) - 1)}

    algorithm = _Regression(make)
    learner = Learner(algorithm, LearnerConfig())
    second_before = algorithm.second.weight.detach().clone()
    learner.update(draw, lambda loss: None)
    assert seen == [("critic", 0), ("critic", 1), ("critic", 2)]
    assert torch.equal(second_before, algorithm.second.weight), "a phase changed parameters of another"
    first_before = algorithm.first.weight.detach().clone()
    learner.update(draw, lambda loss: None)
    assert seen[3:] == [("critic", 3), ("critic", 4), ("critic", 5), ("actor", 5)]
    assert not torch.equal(second_before, algorithm.second.weight)
    assert not torch.equal(first_before, algorithm.first.weight)
    assert algorithm.log == ["after 1", "after 2"]
    assert set(learner.sums.drain()) == {
        "loss", "critic_loss", "critic_size", "critic_scalar", "actor_loss", "actor_size", "actor_scalar",
    }  # fmt: skip


def test_a_phase_overrides_single_optimiser_settings() -> None:
    def make(algorithm: _Regression) -> list[Phase]:
        parameters = tuple(algorithm.parameters())
        return [Phase("all", algorithm.loss, parameters, optimizer={"learning_rate": 0.5, "betas": (0.0, 0.9)})]

    learner = Learner(_Regression(make), LearnerConfig(optimizer=OPTIMIZERS.component(eps=1e-3)))
    group = learner.phases[0].optimizers[0].param_groups[0]
    assert (group["lr"], group["betas"], group["eps"]) == (0.5, (0.0, 0.9), 1e-3)


@pytest.mark.parametrize(
    ("schedule", "fraction", "update", "expected"),
    [
        (SCHEDULES.component("linear"), 0.25, 1, 0.75),
        (SCHEDULES.component("linear", final=0.2), 1.0, 1, 0.2),
        (SCHEDULES.component("cosine"), 0.5, 1, 0.5),
        (SCHEDULES.component("cosine", final=0.1), 0.0, 1, 1.0),
        (SCHEDULES.component("step"), 0.49, 1, 1.0),
        (SCHEDULES.component("step"), 0.5, 1, 0.1),
        (SCHEDULES.component("step", at=(0.2, 0.4, 0.6), factor=0.5, warmup=10), 0.5, 5, 0.125),
        (SCHEDULES.component("exponential", final=0.01), 0.5, 1, 0.1),
        (SCHEDULES.component("exponential", final=0.01), 1.0, 1, 0.01),
        (SCHEDULES.component("one_cycle", start=0.2), 0.0, 1, 0.2),
        (SCHEDULES.component("one_cycle", start=0.2), 0.15, 1, 0.6),
        (SCHEDULES.component("one_cycle", rise=0.25), 0.25, 1, 1.0),
        (SCHEDULES.component("one_cycle", rise=0.5, final=0.0), 0.75, 1, 0.5),
        (SCHEDULES.component("one_cycle", final=0.1), 1.0, 1, 0.1),
        (SCHEDULES.component(warmup=4), 0.5, 1, 0.25),
        (SCHEDULES.component(warmup=4), 0.5, 9, 1.0),
        (SCHEDULES.component("linear", warmup=10), 0.5, 5, 0.25),
    ],
)
def test_learning_rate_schedules(schedule: Component, fraction: float, update: int, expected: float) -> None:
    algorithm = _Regression()
    learner = Learner(algorithm, LearnerConfig(optimizer=OPTIMIZERS.component(learning_rate=0.5), schedule=schedule))
    learner.updates = update - 1
    algorithm.progress.fraction = fraction
    learner.update(_batch, lambda loss: None)
    assert learner.phases[0].optimizers[0].param_groups[0]["lr"] == pytest.approx(0.5 * expected)


class _TwoLearners:
    """A group whose other learner has three examples, and the sum 30 in each place of its gradient."""

    rank = 0
    world_size = 2

    def all_reduce(self, tensor: torch.Tensor) -> None:
        tensor[:-16] += 30.0
        tensor[-16] += 3.0

    def sum_counts(self, counts: Sequence[int]) -> list[int]:
        return [2 * count for count in counts]


def test_the_gradient_is_summed_over_the_group_before_clipping_and_stepping() -> None:
    batch, plain = _batch(), _Regression()
    algorithm = _Regression()
    config = LearnerConfig(optimizer=OPTIMIZERS.component("sgd", learning_rate=1.0))
    Learner(algorithm, config, _TwoLearners()).update(lambda: batch, lambda loss: None)
    examples = len(plain.loss(batch).per_example) + 3
    (plain.loss(batch).per_example.sum() / examples).backward()
    for mine, theirs in zip(algorithm.parameters(), plain.parameters(), strict=True):
        expected = theirs.detach() - (theirs.grad + 30.0 / examples)
        torch.testing.assert_close(mine.detach(), expected, rtol=1e-5, atol=1e-5)


def test_metric_sums_are_means_over_all_examples_and_survive_saving() -> None:
    sums = MetricSums()
    for rows in range(1, 600):  # more than one fold
        sums.add("a", torch.full((rows % 3 + 1,), float(rows)))
    values = [float(rows) for rows in range(1, 600) for _ in range(rows % 3 + 1)]
    copy = MetricSums()
    copy.load_state_dict(sums.state_dict())
    assert sums.drain()["a"] == pytest.approx(sum(values) / len(values))
    assert copy.drain()["a"] == pytest.approx(sum(values) / len(values))
    assert sums.drain() == {}


@pytest.mark.parametrize("allowed", [True, False])
def test_bfloat16_runs_losses_under_autocast_except_where_a_phase_forbids_it(allowed: bool) -> None:
    seen: list[torch.dtype] = []

    def make(algorithm: _Regression) -> list[Phase]:
        def loss(batch: Batch) -> Loss:
            hidden = algorithm.first(batch["x"])
            seen.append(hidden.dtype)
            return Loss((algorithm.second(hidden).squeeze(1) - batch["y"]).square())

        first, second = (tuple(layer.parameters()) for layer in (algorithm.first, algorithm.second))
        # A precision that no phase at all may have is refused.
        return [
            Phase("one", loss, first, autocast=allowed, compilable=not allowed),
            Phase("other", loss, second, autocast=True),
        ]

    algorithm = _Regression(make)
    Learner(algorithm, LearnerConfig(precision="bfloat16")).update(_batch, lambda loss: None)
    assert seen == [torch.bfloat16 if allowed else torch.float32, torch.bfloat16]
    assert all(parameter.dtype == torch.float32 for parameter in algorithm.parameters())
