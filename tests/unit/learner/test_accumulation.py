"""Gradient accumulation: a step from parts of a batch is that of the whole batch, or it is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from cases import case
from rayloom.config.optimizers import OPTIMIZERS
from rayloom.config.schema import LearnerConfig
from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Loss, Phase
from rayloom.errors import UserError
from rayloom.learner.learner import Learner
from rayloom.runs.learner_role import LearnerRole
from rayloom.testing.learners import SimulatedGroup, simulate


class _Denoiser(Algorithm):
    """Counts, weights, noise, priorities and both kinds of metrics."""

    def __init__(self) -> None:
        super().__init__(AlgorithmConfig(), {})
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 3)
        self.sizes: list[int] = []

    def phases(self) -> list[Phase]:
        return [Phase("denoise", self.loss, tuple(self.parameters()))]

    def loss(self, batch: Batch) -> Loss:
        x = batch["x"]
        self.sizes.append(len(x))
        dirty = x + self.noise.normal(len(x), 3) * self.noise.uniform(len(x))[:, None]
        error = (self.layer(dirty) - x).square().sum(1)
        metrics = {"each": error.detach().sqrt(), "one": error.detach().mean()}
        return Loss(error, metrics, error.detach(), batch.get("count"))


def _batch(rows: int = 13) -> Batch:
    generator = torch.Generator().manual_seed(1)
    batch = {"x": torch.randn(rows, 3, generator=generator), "weight": torch.rand(rows, generator=generator)}
    return {**batch, "count": torch.arange(float(rows))}


def _trained(
    batch: Batch,
    algorithm: _Denoiser | None = None,
    group: SimulatedGroup | None = None,
    cut: tuple[int, int] | None = None,
    **settings: Any,
) -> tuple[_Denoiser, dict[str, float], list[Loss]]:
    algorithm, losses = algorithm or _Denoiser(), []
    optimizer = OPTIMIZERS.component("sgd", learning_rate=0.1, momentum=0.9)
    count = 1 if group is None else group.world_size
    config = LearnerConfig(optimizer=optimizer, max_grad_norm=0.5, batch_size=13, count=count, **settings)
    learner = Learner(algorithm, config, group, seed=5)
    learner.noise.cut = lambda: cut
    for _ in range(4):
        learner.update(lambda: batch, losses.append)
    assert learner.updates == 4
    return algorithm, learner.drain_metrics(), losses


def _assert_same(one: tuple[_Denoiser, dict[str, float], Any], other: tuple[_Denoiser, dict[str, float], Any]) -> None:
    torch.testing.assert_close(one[0].layer.weight, other[0].layer.weight, rtol=1e-5, atol=1e-6)
    assert one[1] == {name: pytest.approx(value, rel=1e-4) for name, value in other[1].items()}


def test_parts_of_a_batch_make_the_step_of_the_whole() -> None:
    whole = _trained(_batch())
    parts = _trained(_batch(), accumulate=5)
    _assert_same(parts, whole)
    assert parts[0].sizes == 4 * [2, 3, 2, 3, 3] and whole[0].sizes == 4 * [13]
    for mine, theirs in zip(parts[2], whole[2], strict=True):
        assert mine.priorities is not None and theirs.priorities is not None
        torch.testing.assert_close(mine.priorities, theirs.priorities, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled_parts_make_the_step_of_the_whole() -> None:
    _assert_same(_trained(_batch(), accumulate=2, compile=True), _trained(_batch()))


def test_two_learners_with_uneven_shares_in_parts_repeat_one() -> None:
    algorithms = [_Denoiser(), _Denoiser()]  # not in the threads: torch's generator is one for all of them

    def learn(group: SimulatedGroup) -> Any:
        first, last = ((0, 6), (6, 13))[group.rank]
        share = {name: value[first:last] for name, value in _batch().items()}
        return _trained(share, algorithms[group.rank], group, (first, 13), accumulate=3)

    whole = _trained(_batch())
    for found in simulate(2, learn):
        torch.testing.assert_close(found[0].layer.weight, whole[0].layer.weight, rtol=1e-5, atol=1e-6)


def test_a_batch_with_fewer_rows_than_parts_has_as_many_parts_as_rows() -> None:
    small = _batch(2)
    _assert_same(_trained(small, accumulate=5), _trained(small))


class _Shuffling(_Denoiser):
    def loss(self, batch: Batch) -> Loss:
        return super().loss({**batch, "x": batch["x"][self.noise.permutation(len(batch["x"]))]})


class _Summing(_Denoiser):
    def loss(self, batch: Batch) -> Loss:
        return super().loss({**batch, "x": batch["x"] - self.sum_over_learners(batch["x"].sum(0))})


class _Remembering(_Denoiser):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def loss(self, batch: Batch) -> Loss:
        self.seen.add_(1)
        return super().loss(batch)


class _Normalizing(_Denoiser):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_Shuffling, r"noise\.permutation"),
        (_Summing, "_Summing depends on the whole batch"),
        (_Remembering, "_Remembering changes buffers"),
        (_Normalizing, "_Normalizing has torch's batch norm"),
    ],
)
def test_losses_of_which_parts_are_not_the_whole_are_refused(make: Callable[[], _Denoiser], words: str) -> None:
    with pytest.raises(UserError, match=rf"^learner\.accumulate: .*{words}.*set learner\.accumulate to 1$"):
        _trained(_batch(), make(), accumulate=2)
    _trained(_batch(), make())


def test_fields_that_are_no_rows_and_too_many_parts_are_refused() -> None:
    with pytest.raises(UserError, match="field 'edges' has 4 rows for 13 examples"):
        _trained({**_batch(), "edges": torch.zeros(4)}, accumulate=2)
    with pytest.raises(UserError, match="14 parts are more than the 13 examples"):
        _trained(_batch(), accumulate=14)


def test_batch_norm_and_rules_of_shipped_systems_are_refused() -> None:
    network = {"kind": "resnet", "channels": [4], "blocks": 1}
    with pytest.raises(UserError, match=r"learner\.accumulate: Classifier depends on the whole batch"):
        role = LearnerRole(case("softmax_regression", algorithm={"network": network}, learner={"accumulate": 2}))
        role.learner.update(role.source.next, role.source.feedback)
    with pytest.raises(UserError, match=r"learner\.accumulate: KMeans descends no gradient"):
        LearnerRole(case("k_means", learner={"accumulate": 2}))
