"""The data that a run learnt from stand in MLflow, and a run is resumed with no others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import rayloom
from rayloom.config.schema import RunConfig
from rayloom.errors import UserError
from rayloom.runs.observer import Observer, Report
from rayloom.runs.plan import Plan
from tracking_store import StoreView, empty_store


def write_points(path: Path, seed: int) -> None:
    draw = np.random.default_rng(seed)
    label = draw.integers(0, 2, 200)
    np.savez(
        path, image=(draw.normal(size=(200, 1, 4, 4)) + label[:, None, None, None]).astype(np.float32), label=label
    )


class _StoppedError(Exception):
    """Stands for whatever ends a run half way."""


class _Stop(Observer):
    """Ends the run after its second checkpoint."""

    folder = Path()

    def started(self, config: RunConfig, plan: Plan, folder: Path) -> None:
        _Stop.folder = folder

    def report(self, report: Report) -> None:
        if report.counters["updates"] >= 5:
            raise _StoppedError


def test_a_run_records_its_data_and_refuses_others(tmp_path: Path) -> None:
    output, data = tmp_path / "out", tmp_path / "points.npz"
    store: StoreView = empty_store(output)
    write_points(data, 0)
    config = tmp_path / "points.yaml"
    config.write_text(
        "algorithm: {import: 'rayloom_supervised.tasks.classification:Classifier', network: softmax_regression}\n"
        f"source: {{kind: dataset, dataset: {{kind: arrays, path: {data}, labels: [low, high]}}}}\n"
        "learner: {batch_size: 20}\n"
        "checkpoint: {every: 2 updates}\n"
        "stop: {updates: 10}\n"
    )
    uri = f"sqlite:///{output / 'mlflow.db'}"
    settings = (f"output={output}", f"tracking.uri={uri}", "tracking.system_metrics=false")
    result = rayloom.run(str(config), *settings, local=True)
    run_id = result.run_id
    (found,) = store.rows(
        "select d.name, d.digest, d.dataset_source, d.dataset_schema, d.dataset_profile from datasets d join inputs i "
        "on i.source_id = d.dataset_uuid where i.destination_id = ?",
        run_id,
    )
    sha256 = store.tags(run_id)["rayloom.data_sha256"]
    assert found[:2] == ("points", sha256[:36])
    assert json.loads(found[2])["path"] == str(data)
    assert json.loads(found[3])["image"] == ["torch.float32", 1, 4, 4]
    assert json.loads(found[4]) == {"train": 160, "validation": 20, "test": 20}
    assert store.rows("select name, value from input_tags") == [("mlflow.data.context", "training")]

    with pytest.raises(_StoppedError):
        rayloom.run(str(config), *settings, local=True, observer=_Stop())
    write_points(data, 1)
    with pytest.raises(UserError, match=r"the contents of the data set points .* are not those"):
        rayloom.resume(_Stop.folder.name, output=str(output))
