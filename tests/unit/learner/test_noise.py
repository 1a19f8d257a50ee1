"""Noise by address: cut like the batch, the same again at the same address, and an input of compiled losses."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from torch import nn

from rayloom.config.schema import LearnerConfig
from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Loss, Phase
from rayloom.errors import UserError
from rayloom.learner.learner import Learner
from rayloom.learner.noise import AddressedNoise
from rayloom.testing.learners import SimulatedGroup, simulate

CPU = torch.device("cpu")


def _noise(rank: int = 0, world_size: int = 1, seed: int = 3) -> AddressedNoise:
    noise = AddressedNoise(seed, CPU, rank, world_size)
    noise.begin(7, "phase", 0)
    return noise


def test_each_learner_has_its_rows_of_the_whole_batch() -> None:
    whole, parts = _noise(), [_noise(rank, 3) for rank in range(3)]
    probability = torch.linspace(0, 1, 12)[:, None].expand(12, 50)
    for _ in range(2):
        assert torch.equal(torch.cat([part.normal(4, 2, 5) for part in parts]), whole.normal(12, 2, 5))
        assert torch.equal(torch.cat([part.uniform(4) for part in parts]), whole.uniform(12))
        bits = torch.cat([p.bernoulli(probability[4 * r : 4 * r + 4]) for r, p in enumerate(parts)])
        assert torch.equal(bits, whole.bernoulli(probability))
        assert set(bits.unique().tolist()) == {0.0, 1.0}
        assert bits.mean(1).sub(torch.linspace(0, 1, 12)).abs().max() < 0.25


def test_shares_of_different_sizes_follow_the_sources_cut() -> None:
    whole, cuts = _noise().normal(11, 3), [(0, 3), (3, 7), (7, 11)]
    shares = []
    for rank, (start, end) in enumerate(cuts):
        noise = _noise(rank, 3)
        noise.cut = lambda start=start: (start, 11)
        shares.append(noise.normal(end - start, 3))
    assert torch.equal(torch.cat(shares), whole)
    noise.cut = lambda: (7, 11)
    with pytest.raises(UserError, match="noise: 8 rows were asked for, which is more than the batch has"):
        noise.normal(8)


def test_calls_addresses_and_seeds_differ_and_repeat() -> None:
    noise = _noise()
    first, second = noise.normal(20), noise.normal(20)
    assert not torch.equal(first, second)
    noise.begin(8, "phase", 0)
    assert not torch.equal(noise.normal(20), first)
    noise.begin(7, "phase", 0)
    assert torch.equal(noise.normal(20), first) and torch.equal(noise.normal(20), second)
    assert not torch.equal(_noise(seed=4).normal(20), first)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    noise.uniform(5)
    assert torch.equal(torch.get_rng_state(), before), "no generator of the process is touched"


def test_numbers_are_normal_and_uniform() -> None:
    noise = _noise()
    normal, uniform = noise.normal(1000, 50), noise.uniform(1000, 50)
    assert abs(float(normal.mean())) < 0.02 and float(normal.std()) == pytest.approx(1, abs=0.02)
    assert (
        float(uniform.min()) >= 0 and float(uniform.max()) < 1 and float(uniform.mean()) == pytest.approx(0.5, abs=0.01)
    )
    assert normal.dtype == uniform.dtype == torch.float32


def test_permutations_are_each_learners_own() -> None:
    orders = [_noise(rank, 2).permutation(20) for rank in range(2)]
    assert all(sorted(order.tolist()) == list(range(20)) for order in orders)
    assert not torch.equal(orders[0], orders[1])


class _Noisy(Algorithm):
    """Denoises: every method of the noise, in the loss."""

    def __init__(self) -> None:
        super().__init__(AlgorithmConfig(), {})
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 3)

    def phases(self) -> list[Phase]:
        return [Phase("denoise", self.loss, tuple(self.parameters()))]

    def loss(self, batch: Batch) -> Loss:
        x = batch["x"]
        kept = self.noise.bernoulli(torch.full_like(x, 0.7))
        dirty = x * kept + self.noise.normal(len(x), 3) * self.noise.uniform(len(x))[:, None]
        error = (self.layer(dirty) - x).square().sum(1)
        return Loss(error, {"kept": kept.mean(1)}, count=batch.get("count"))


def _batch() -> Batch:
    return {"x": torch.linspace(-1, 1, 36).reshape(12, 3)}


def _trained(
    config: LearnerConfig, batch: Batch, algorithm: _Noisy, group: SimulatedGroup | None = None
) -> tuple[Any, dict[str, float]]:
    learner = Learner(algorithm, config, group, seed=5)
    for _ in range(6):
        learner.update(lambda: batch, lambda loss: None)
    return algorithm, learner.drain_metrics()


def test_several_learners_repeat_one_learners_noise() -> None:
    alone, metrics = _trained(LearnerConfig(), _batch(), _Noisy())
    algorithms = [_Noisy() for _ in range(3)]  # not in the threads: torch's generator is one for all of them

    def learn(group: SimulatedGroup) -> tuple[Any, dict[str, float]]:
        return _trained(LearnerConfig(), shares[group.rank], algorithms[group.rank], group)

    shares = [{"x": _batch()["x"][4 * rank : 4 * rank + 4]} for rank in range(3)]
    for algorithm, found in simulate(3, learn):
        torch.testing.assert_close(algorithm.layer.weight, alone.layer.weight, rtol=1e-5, atol=1e-6)
        assert found == {name: pytest.approx(value, rel=1e-5) for name, value in metrics.items()}


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_compiled_loss_sees_the_noise_of_the_eager_one() -> None:
    batch = {**_batch(), "count": torch.arange(12.0)}
    eager, theirs = _trained(LearnerConfig(max_grad_norm=0.5), batch, _Noisy())
    compiled, mine = _trained(LearnerConfig(max_grad_norm=0.5, compile=True), batch, _Noisy())
    torch.testing.assert_close(compiled.layer.weight, eager.layer.weight, rtol=1e-5, atol=1e-6)
    assert mine == {name: pytest.approx(value, rel=1e-5) for name, value in theirs.items()}
