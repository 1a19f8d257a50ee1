"""Whole runs of rules alone: no optimiser, no parameters; exact after a resume in the middle of a pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import rayloom
from cases import case
from data_runs import points_run
from persistent_chains import Chains
from rayloom.checkpoint.store import CheckpointStore
from rayloom.config.schema import RunConfig
from rayloom.errors import UserError
from rayloom.runs.learner_role import LearnerRole
from rayloom.runs.loop import make_schedule
from rule_kmeans import KMeans


def _config(output: Path, **sections: Any) -> RunConfig:
    return points_run("rule_kmeans:KMeans", str(output), **sections)


def test_a_run_of_rules_alone_is_a_run_like_any_other(tmp_path: Path) -> None:
    result = rayloom.run(_config(tmp_path), local=True)
    assert result.metrics["evaluate/distortion"] < 1
    assert result.metrics["train/shift"] < 2 and result.metrics["train/distortion"] > 0
    assert "train/learning_rate" not in result.metrics and "train/loss" not in result.metrics
    assert rayloom.run(_config(tmp_path), local=True).weights_sha256 == result.weights_sha256
    trained = rayloom.load(result.run_dir.name, output=str(tmp_path))
    assert trained.algorithm.centres.shape == (25, 2)
    assert trained.evaluate().metrics["evaluate/distortion"] == result.metrics["evaluate/distortion"]


def test_a_resume_in_the_middle_of_a_pass_is_exact_and_initializes_nothing(tmp_path: Path) -> None:
    config = _config(tmp_path, checkpoint={"every": "30 updates"})
    role = LearnerRole(config)
    assert role.parameter_counts() == {"lloyd": 50}
    schedule = make_schedule(config, role.updates_per_epoch(), role.samples_per_epoch())
    while "checkpoint" not in role.advance(schedule).due:
        pass
    before = role.counters()["samples"]
    store = CheckpointStore(tmp_path / "saved", 1, "max")
    store.save(role.learner.updates, role.barrier_and_state())
    assert before % (role.samples_per_epoch() or 1), "in the middle of a pass"
    initialized = KMeans.initialized
    copy = LearnerRole(config, begins=False)
    assert KMeans.initialized == initialized
    loaded = store.load_latest()
    assert loaded is not None
    copy.load_state(loaded.state)
    for each in (role, copy):
        while not each.advance(schedule).exhausted:
            pass
    assert copy.weights_sha256() == role.weights_sha256()
    assert copy.metrics().get("train/shift") == role.metrics()["train/shift"]


def test_a_rule_over_epochs_needs_a_source_that_has_them(tmp_path: Path) -> None:
    role = LearnerRole(_config(tmp_path))
    environments = LearnerRole(case("ppo", str(tmp_path)))
    with pytest.raises(UserError, match="rule 'lloyd' of KMeans applies once an epoch, which only a data set has"):
        role.learner.attach(environments.source)
    environments.close()


def test_evaluations_do_not_touch_the_noise_of_the_training(tmp_path: Path) -> None:
    hashes = []
    for every in (None, "7 updates"):
        config = case("vae", str(tmp_path), evaluate={"every": every}, stop={"updates": 30})
        role = LearnerRole(config)
        schedule = make_schedule(config, role.updates_per_epoch())
        while True:
            advance = role.advance(schedule)
            if "evaluate" in advance.due:
                role.evaluate()
            if advance.exhausted:
                break
        hashes.append(role.weights_sha256())
        role.close()
    assert hashes[0] == hashes[1]


def test_the_statistics_of_initialize_are_there_before_the_first_update(tmp_path: Path) -> None:
    role = LearnerRole(points_run("persistent_chains:Chains", str(tmp_path)))
    algorithm: Any = role.algorithm
    assert isinstance(algorithm, Chains) and float(algorithm.scale[0]) != 1.0
    assert role.dataset is not None
    role.close()
