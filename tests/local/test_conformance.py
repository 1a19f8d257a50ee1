"""What every algorithm and source must hold to, whatever it learns."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cases import TREES, case
from rayloom.checkpoint.store import CheckpointStore
from rayloom.contract import Batch, Loss
from rayloom.learner.phase import PhaseLearner
from rayloom.runs.learner_role import LearnerRole
from rayloom.runs.loop import make_schedule

ALL = sorted(TREES)


def _draw(role: LearnerRole) -> Batch:
    return role.source.next()


def _ignore(loss: Loss) -> None:
    pass


@pytest.fixture(params=ALL)
def role(request: pytest.FixtureRequest) -> Any:
    role = LearnerRole(case(request.param))
    yield role
    role.close()


def test_every_phase_lowers_its_loss_on_a_fixed_batch(role: LearnerRole) -> None:
    batch = _draw(role)
    for learner in role.learner.phases:
        losses = []
        for _ in range(60):
            loss, _ = learner.step(batch)
            losses.append(float(loss.per_example.mean()))
        assert sum(losses[-10:]) / 10 < sum(losses[:10]) / 10, (learner.phase.name, losses[:3], losses[-3:])


class _RowNoise:
    """Stands in for torch's noise: each call returns rows [start, start + n) of a fixed table of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.start = 0
        self.calls = 0
        self._tables: dict[tuple[int, str], torch.Tensor] = {}
        true_randn, true_rand = torch.randn, torch.rand

        def table(kind: str, shape: tuple[int, ...]) -> torch.Tensor:
            key = (self.calls, kind)
            self.calls += 1
            if key not in self._tables:
                make = true_randn if kind == "normal" else true_rand
                generator = torch.Generator().manual_seed(len(self._tables))
                self._tables[key] = make((256, *shape[1:]), generator=generator)
            return self._tables[key][self.start : self.start + shape[0]].clone()

        def shape_of(arguments: tuple[Any, ...]) -> tuple[int, ...]:
            first = arguments[0]
            return tuple(first) if isinstance(first, tuple | list | torch.Size) else tuple(arguments)

        monkeypatch.setattr(torch, "randn", lambda *a, **k: table("normal", shape_of(a)))
        monkeypatch.setattr(torch, "rand", lambda *a, **k: table("uniform", shape_of(a)))
        monkeypatch.setattr(torch, "randn_like", lambda x, **k: table("normal", tuple(x.shape)))
        monkeypatch.setattr(torch, "rand_like", lambda x, **k: table("uniform", tuple(x.shape)))
        monkeypatch.setattr(torch, "bernoulli", lambda p, **k: (table("uniform", tuple(p.shape)) < p).to(p.dtype))

    def at(self, start: int) -> None:
        self.start, self.calls = start, 0


def _gradient(learner: PhaseLearner, batch: Batch, global_count: int) -> torch.Tensor:
    learner.flat.gradient.zero_()
    loss = learner.phase.loss(batch)
    learner.objective(loss, batch, global_count).backward(inputs=learner.flat.parameters)
    return learner.flat.gradient.clone()


@pytest.mark.parametrize("name", [name for name in ALL if name != "mlp_dropout"])
@pytest.mark.parametrize("cuts", [(0, 32), (0, 5, 9, 32)])
def test_shards_of_a_batch_add_up_to_the_whole_batch(
    name: str, cuts: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    role = LearnerRole(case(name))
    batch = {key: value[:32] for key, value in _draw(role).items()}
    batch.setdefault("weight", torch.linspace(0.5, 1.5, 32))
    noise = _RowNoise(monkeypatch)
    for learner in role.learner.phases:
        noise.at(0)
        whole = _gradient(learner, batch, 32)
        assert whole.abs().max() > 0
        total = torch.zeros_like(whole)
        for start, end in itertools.pairwise(cuts):
            noise.at(start)
            total += _gradient(learner, {key: value[start:end] for key, value in batch.items()}, 32)
        torch.testing.assert_close(total, whole, rtol=1e-4, atol=1e-6)
    role.close()


def _finish(role: LearnerRole, stop_after: int | None = None) -> list[dict[str, float]]:
    """Advance to the end like the loop does, and return the metrics that do not depend on time."""
    schedule = make_schedule(role.config, role.updates_per_epoch())
    history = []
    while True:
        advance = role.advance(schedule)
        if "log" in advance.due or advance.exhausted:
            history.append({k: v for k, v in role.metrics().items() if k.startswith("train/")})
        if "evaluate" in advance.due or advance.exhausted:
            history.append(dict(role.evaluate().metrics))
        if "checkpoint" in advance.due and not advance.exhausted:
            role.source.barrier()
        if advance.exhausted or (stop_after and advance.counters["updates"] >= stop_after):
            return history


@pytest.mark.parametrize("name", ALL)
def test_two_seeded_runs_agree_and_another_seed_differs(name: str) -> None:
    hashes, histories = [], []
    for seed in (3, 3, 4):
        role = LearnerRole(case(name) if seed == 0 else _seeded(name, seed))
        histories.append(_finish(role))
        hashes.append(role.weights_sha256())
        role.close()
    assert hashes[0] == hashes[1] != hashes[2]
    assert histories[0] == histories[1]
    for entry in histories[0]:
        assert all(math.isfinite(value) for value in entry.values()), entry


def _seeded(name: str, seed: int) -> Any:
    from dataclasses import replace

    return replace(case(name), seed=seed)


@pytest.mark.parametrize("name", ALL)
def test_a_saved_role_continues_identically(name: str, tmp_path: Path) -> None:
    config = case(name)
    role = LearnerRole(config)
    schedule = make_schedule(config, role.updates_per_epoch())
    while "checkpoint" not in role.advance(schedule).due:
        pass
    store = CheckpointStore(tmp_path, 1, "max")
    store.save(role.learner.updates, role.barrier_and_state())
    rest = _finish(role)

    torch.manual_seed(99)  # a new process starts with other generators
    copy = LearnerRole(config)
    loaded = store.load_latest()
    assert loaded is not None
    copy.load_state(loaded.state)
    assert _finish(copy) == rest
    assert copy.weights_sha256() == role.weights_sha256()
    assert copy.counters() == role.counters()
    role.close()
    copy.close()


class _NoSynchronisation(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert "_local_scalar_dense" not in str(func), "a loss reads a tensor's value on the host"
        assert "nonzero" not in str(func), "a loss needs a size that depends on data"
        return func(*args, **(kwargs or {}))


def test_a_loss_never_waits_for_the_device(role: LearnerRole) -> None:
    batch = _draw(role)
    for learner in role.learner.phases:
        with _NoSynchronisation():
            loss = learner.phase.loss(batch)
        assert loss.per_example.shape == (len(next(iter(batch.values()))),)
        assert all(not value.requires_grad for value in loss.metrics.values())


def test_metrics_have_the_shared_names(role: LearnerRole) -> None:
    for _ in range(3):
        role.learner.update(role.source.next, role.source.feedback)
    metrics = role.metrics()
    assert "train/loss" in metrics and "throughput/updates_per_s" in metrics and "time/wait_fraction" in metrics
    assert all(name.split("/")[0] in ("train", "throughput", "time") for name in metrics)
    assert all(name.startswith("evaluate/") for name in role.evaluate().metrics)
