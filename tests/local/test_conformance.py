"""Every algorithm and every option that changes its data flow holds to the contract."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cases import TREES, case
from rayloom.config.schema import RunConfig
from rayloom.testing import CHECKS, small


def whole(config: RunConfig) -> RunConfig:
    """Return the run as it is."""
    return config


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
        assert isinstance(learner, PhaseLearner)
        losses = []
        for _ in range(60):
            loss, _ = learner.step(batch)
            losses.append(float(loss.per_example.mean()))
        assert sum(losses[-10:]) / 10 < sum(losses[:10]) / 10, (learner.phase.name, losses[:3], losses[-3:])


def _gradient(learner: PhaseLearner, batch: Batch, global_count: int) -> torch.Tensor:
    for flat in learner.flats:
        flat.gradient.zero_()
    loss = learner.phase.loss(batch)
    learner.objective(loss, batch, global_count).backward(inputs=learner.parameters)
    return torch.cat([flat.gradient for flat in learner.flats])


@pytest.mark.parametrize("name", [name for name in ALL if name != "mlp_dropout"])
@pytest.mark.parametrize("cuts", [(0, 32), (0, 5, 9, 32)])
def test_shards_of_a_batch_add_up_to_the_whole_batch(name: str, cuts: tuple[int, ...]) -> None:
    role = LearnerRole(case(name))
    batch = {key: value[:32] for key, value in _draw(role).items()}
    batch.setdefault("weight", torch.linspace(0.5, 1.5, 32))
    noise = role.learner.noise

    def at(start: int, index: int) -> None:
        noise.cut = lambda: (start, 32)
        noise.begin("shards", index)

    for index, learner in enumerate(role.learner.phases):
        assert isinstance(learner, PhaseLearner)
        at(0, index)
        whole = _gradient(learner, batch, 32)
        assert whole.abs().max() > 0
        total = torch.zeros_like(whole)
        for start, end in itertools.pairwise(cuts):
            at(start, index)
            total += _gradient(learner, {key: value[start:end] for key, value in batch.items()}, 32)
        torch.testing.assert_close(total, whole, rtol=1e-4, atol=1e-6)
    role.close()


class _Place:
    """The place of one learner among three whose collective operations nobody calls."""

    world_size = 3

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def all_reduce(self, tensor: torch.Tensor) -> None:
        raise AssertionError("a batch is drawn by each learner alone")

    def sum_counts(self, counts: Sequence[int]) -> list[int]:
        raise AssertionError("a batch is drawn by each learner alone")


@pytest.mark.parametrize("name", [name for name in ALL if TREES[name]["source"]["kind"] == "dataset"])
def test_the_prepared_shares_of_several_learners_are_the_prepared_batch(name: str) -> None:
    """With the noise that `prepare` draws: 64 examples are shared 21, 21 and 22."""
    alone = LearnerRole(case(name))
    roles = [LearnerRole(case(name), group=_Place(rank)) for rank in range(3)]
    for _ in range(2):
        whole = alone.learner._next(alone.source.next)
        shares = [role.learner._next(role.source.next) for role in roles]
        for key, value in whole.items():
            assert torch.equal(torch.cat([share[key] for share in shares]), value), key
    for role in (alone, *roles):
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
        assert isinstance(learner, PhaseLearner)
        learner.step(batch)  # whose first loss is checked
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
