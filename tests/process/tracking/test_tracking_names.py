"""Keys and experiments in MLflow: no two keys become one, and nothing that was deleted comes back by itself."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

import rayloom
from cases import case
from rayloom.config.load import from_tree
from rayloom.tracking.location import resolve_experiment
from rayloom.tracking.tracker import Tracker
from rayloom.tracking.writer.keys import mlflow_key
from search_cases import GRID, study
from tracking_store import DEADLINE_S, StoreView, empty_store, start, wait_for


@pytest.fixture
def output(tmp_path: Path) -> Path:
    empty_store(tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def store(output: Path) -> StoreView:
    return StoreView(output / "mlflow.db")


def log(tracker: Tracker, keys: list[str], step: int) -> None:
    for key in keys:
        tracker.log_metrics({key: float(len(key))}, step)


def test_keys_that_look_alike_stay_apart_after_a_resume_too(output: Path, store: StoreView) -> None:
    long = "x" * 250
    keys = ["recall@1", "recall_1", "recall#1", long + "a", long + "b", long]
    values: dict[str, object] = {key: f"value {n}" for n, key in enumerate(keys)}
    tracker = start(output, params=values, tags={key: str(value) for key, value in values.items()})
    log(tracker, keys, 0)
    assert tracker.finish("FAILED", timeout_s=DEADLINE_S)
    tracker = start(output, params=values, resume=True)
    log(tracker, keys[::-1], 1)
    assert tracker.finish("FINISHED", timeout_s=DEADLINE_S)
    run_id = str(tracker.run_id)
    expected = sorted((mlflow_key(key), step, float(len(key))) for key in keys for step in (0, 1))
    assert store.points(run_id) == expected and len({key for key, *_ in expected}) == len(keys)
    assert store.params(run_id) == {mlflow_key(key): value for key, value in values.items()}
    tags = store.tags(run_id)
    assert {key: tags[mlflow_key(key)] for key in keys} == values
    renamed = {told for key, told in tags.items() if key.startswith("rayloom.renamed/")}
    assert renamed == {f"{mlflow_key(key)} stands for {key}" for key in keys if mlflow_key(key) != key}
    assert len(renamed) == 4 and not [key for key in tags if "changed" in key]
    assert "MLflow takes no key 'recall@1'" in (output / "run/internal/writer.log").read_text()


def test_a_deleted_experiment_stays_deleted_with_its_runs(output: Path, store: StoreView) -> None:
    first = start(output, "first")
    assert first.finish("FINISHED", timeout_s=DEADLINE_S)
    with sqlite3.connect(store.database, timeout=30) as connection:
        for table in ("experiments", "runs"):
            connection.execute(f"update {table} set lifecycle_stage = 'deleted'")
    second = start(output, "second")
    second.log_metrics({"train/loss": 1.0}, 0)
    assert second.finish("FINISHED", timeout_s=DEADLINE_S) is False
    assert second.problem is not None and "the experiment 'agents' was deleted; restore it (mlflow" in second.problem
    assert "or set tracking.experiment to another" in second.problem
    assert store.runs() == [] and len(second.history()) == 1
    assert store.rows("select lifecycle_stage from experiments where name = 'agents'") == [("deleted",)]


def test_the_experiment_of_the_environment_counts_where_the_config_names_none(
    output: Path, store: StoreView, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "from here")
    assert resolve_experiment("mine") == "mine" and resolve_experiment(None) == "from here"
    tracking = {"enabled": True, "system_metrics": False}
    config = case("softmax_regression", str(output), tracking=tracking, stop={"updates": 3}, evaluate={"every": None})
    result = rayloom.run(config, local=True)
    space = {"space": {"algorithm.l2": GRID["algorithm.l2"][:1]}, "sampler": "grid", "metric": "evaluate/accuracy"}
    found = rayloom.run_study(study("s", output, space, tracking=tracking, stop={"epochs": 1}), local=True)
    name = "select e.name from runs r join experiments e using (experiment_id) where r.run_uuid = ?"
    wait_for(lambda: len(store.runs()) == 3, "all runs")
    assert {row for run in store.runs() for row in store.rows(name, run)} == {("from here",)}
    assert {result.run_id, found.study_id} <= set(store.runs())
    recorded = from_tree(case("softmax_regression", str(output)).to_tree())
    assert (
        recorded.tracking.experiment is None and "experiment: from here" in (result.run_dir / "config.yaml").read_text()
    )
