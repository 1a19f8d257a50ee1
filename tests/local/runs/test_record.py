"""What a tracker hears about a run: settings to compare, places as tags, its command, and what became of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import rayloom
from cases import case
from rayloom.config.schema import RunConfig
from rayloom.contract import Batch, Loss
from rayloom.tracking.journal import read_metrics
from rayloom_supervised.tasks.classification import Classifier


def records(folder: Path) -> list[dict[str, Any]]:
    """Return what the journal says."""
    return [json.loads(line) for line in (folder / "internal/journal.jsonl").read_text().splitlines()]


def told(folder: Path) -> dict[str, str]:
    """Return the newest value of every tag."""
    found: dict[str, str] = {}
    for record in records(folder):
        found |= record.get("tags", {})
    return found


def run_of(output: Path, **sections: Any) -> RunConfig:
    return case("softmax_regression", str(output), stop={"epochs": 2}, **sections)


def test_settings_that_shape_the_learning_are_parameters_and_places_are_tags(tmp_path: Path) -> None:
    folder = rayloom.run(run_of(tmp_path), local=True).run_dir
    start = records(folder)[0]
    params, tags = start["params"], start["tags"]
    assert params["learner.optimizer.learning_rate"] == "0.001" and params["stop.epochs"] == "2.0"
    assert params["seed"] == "0" and params["source.dataset.kind"] == "digits" and params["evaluate.kind"] == "data"
    assert not any(key.startswith(("tracking.", "cluster.", "output", "checkpoint.")) for key in params)
    assert tags["rayloom.place/output"] == str(tmp_path) and tags["rayloom.place/tracking.pictures"] == "False"
    assert "rayloom.place/learner.device" not in tags, "what is as by default needs no tag"
    assert not {key.removeprefix("rayloom.place/") for key in tags} & params.keys()


def test_every_counter_is_an_axis(tmp_path: Path) -> None:
    result = rayloom.run(run_of(tmp_path), local=True)
    logged = {name: value for _, name, value in read_metrics(result.run_dir)}
    assert {"updates", "samples", "epochs"} <= result.counters.keys()
    assert {name: logged[f"time/{name}"] for name in result.counters} == result.counters


def test_the_description_says_what_it_is_what_came_of_it_and_how_to_load_it(tmp_path: Path) -> None:
    result = rayloom.run(run_of(tmp_path, checkpoint={"best": "evaluate/accuracy"}), local=True)
    begun = records(result.run_dir)[0]["tags"]
    description = told(result.run_dir)["mlflow.note.content"]
    name, accuracy = result.run_dir.name, result.metrics["evaluate/accuracy"]
    assert "Classifier of `rayloom_supervised.tasks.classification`, seed 0" in begun["mlflow.note.content"]
    assert f"FINISHED (epochs >= 2) after {result.counters['updates']} updates" in description
    assert f"- evaluate/accuracy: {accuracy:.6g}" in description and "evaluate/loss" not in description
    loaded = description.split("`")[-4]
    assert eval(loaded, {"rayloom": rayloom}).evaluate().metrics["evaluate/accuracy"] == accuracy  # noqa: S307
    assert f"rayloom evaluate {name}" in description
    assert "/" not in begun["mlflow.source.name"] and "softmax_regression" in begun["mlflow.source.name"]


class Stumbles(Classifier):
    """Fails in its first update."""

    def loss(self, batch: Batch) -> Loss:
        raise RuntimeError("stumbled")


def test_the_description_of_a_run_that_failed_says_so(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stumbled"):
        rayloom.run(run_of(tmp_path, algorithm={"import": f"{__name__}:Stumbles"}), local=True)
    (folder,) = tmp_path.glob("*-softmax_regression-*")
    assert "FAILED (an exception)" in told(folder)["mlflow.note.content"]
