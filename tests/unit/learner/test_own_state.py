"""What each learner has of its own: buffers that are cut, joined and cut anew, and metrics that no one has read."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from persistent_chains import Chains
from rayloom.config.schema import LearnerConfig
from rayloom.contract import AlgorithmConfig, TensorSpec
from rayloom.datasets.tables import TensorTable
from rayloom.errors import UserError
from rayloom.learner.learner import Learner
from rayloom.learner.resharding import reshard_own, whole_state
from rayloom.learner.state import cut_buffers, own_buffers, shared_state
from rayloom.testing.learners import SimulatedGroup, simulate

SPEC = {"point": TensorSpec(shape=(2,), dtype=torch.float32)}


def _points() -> torch.Tensor:
    return torch.arange(40.0).reshape(20, 2)


def _chains(rank: int = 0, world_size: int = 1) -> Any:
    algorithm = Chains(AlgorithmConfig(), SPEC)
    with torch.no_grad():
        algorithm.initialize(TensorTable({"point": _points()}))
    cut_buffers(algorithm, rank, world_size)
    return algorithm


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_chains_are_cut_at_the_start_and_are_no_shared_state(world_size: int) -> None:
    parts = [_chains(rank, world_size) for rank in range(world_size)]
    assert torch.equal(torch.cat([part.walk.chains for part in parts]), _points()[:8])
    assert all(set(shared_state(part)) == {"mean", "scale"} for part in parts)
    assert all(set(own_buffers(part)) == {"walk.chains"} for part in parts)


def test_more_learners_than_rows_and_names_that_are_no_buffers_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"learner.count: 9 learners cannot share the 8 rows of the buffer 'walk.chains'"
    ):
        _chains(0, 9)
    algorithm = _chains()
    algorithm.per_learner = frozenset({"mean"})
    with pytest.raises(UserError, match=r"Chains.per_learner names 'mean', which is no buffer"):
        cut_buffers(algorithm, 0, 1)


@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 1), (1, 2), (2, 2)])
def test_other_learners_go_on_with_the_same_rows_sums_and_metrics(before: int, after: int) -> None:
    def learn(group: SimulatedGroup) -> Any:
        algorithm = _chains(group.rank, group.world_size)
        learner = Learner(algorithm, LearnerConfig(), group)
        share = {"point": _points()[: 12 // before] + group.rank}
        learner.update(lambda: share, lambda loss: None)
        return {"learner": learner.state_dict(), "own": learner.own_state_dict()}

    states = simulate(before, learn)
    joined = torch.cat([state["own"]["buffers"]["walk.chains"] for state in states])
    assert before == 1 or not torch.equal(*(state["own"]["buffers"]["walk.chains"][:2] for state in states[:2]))
    parts = reshard_own([state["own"] for state in states], after)
    assert torch.equal(torch.cat([part["buffers"]["walk.chains"] for part in parts]), joined)
    whole = whole_state({**states[0], "others": states[1:]})
    assert torch.equal(whole["walk.chains"], joined) and set(whole) == {"mean", "scale", "walk.chains"}

    def go_on(group: SimulatedGroup) -> Any:
        algorithm = _chains(group.rank, group.world_size)
        learner = Learner(algorithm, LearnerConfig(), group)
        learner.load_state_dict(states[0]["learner"], parts[group.rank])
        return algorithm, learner.drain_metrics()

    (algorithm, metrics), *others = simulate(after, go_on)
    totals = [state["own"]["sums"]["loss"] for state in states]
    assert metrics["loss"] == pytest.approx(sum(t for t, _ in totals) / sum(c for _, c in totals))
    assert all(found == metrics for _, found in others)
    assert torch.equal(algorithm.mean, states[0]["learner"]["algorithm"]["mean"])


def test_learners_that_report_different_metrics_are_told() -> None:
    def learn(group: SimulatedGroup) -> None:
        learner = Learner(_chains(group.rank, 2), LearnerConfig(), group)
        learner.sums.add(f"metric_{group.rank}", torch.ones(()))
        learner.drain_metrics()

    with pytest.raises(RuntimeError, match="the learners report different metrics"):
        simulate(2, learn)
