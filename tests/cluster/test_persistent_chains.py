"""Buffers that differ between learners: each is saved by its owner, and the run's weights are compared without them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import rayloom
from data_runs import points_run
from rayloom.checkpoint.store import CheckpointStore

pytestmark = [pytest.mark.xdist_group("second_ray"), pytest.mark.usefixtures("one_node")]


@pytest.mark.full
def test_two_learners_with_chains_of_their_own(tmp_path: Path) -> None:
    config = points_run("persistent_chains:Chains", str(tmp_path), learner={"batch_size": 128, "count": 2})
    results = [rayloom.run(config) for _ in range(2)]
    assert results[0].weights_sha256 == results[1].weights_sha256
    loaded = CheckpointStore(results[0].run_dir / "checkpoints", 2, "max").load_latest()
    assert loaded is not None
    role = loaded.state["role"]
    chains = [state["own"]["buffers"]["walk.chains"] for state in (role, *role["others"])]
    assert [list(each.shape) for each in chains] == [[4, 2], [4, 2]]
    assert not torch.equal(chains[0], chains[1])
    assert "walk.chains" not in role["learner"]["algorithm"]
    trained = rayloom.load(results[0].run_dir.name, output=str(tmp_path))
    assert torch.equal(trained.algorithm.get_buffer("walk.chains"), torch.cat(chains))
    assert trained.evaluate().metrics == {
        name: value for name, value in results[0].metrics.items() if name.startswith("evaluate/")
    }
