"""A run that goes further than it was meant to stays one run in MLflow, which says so."""

from __future__ import annotations

from pathlib import Path

from mlflow import MlflowClient

import rayloom
from cases import case
from tracking_store import bound


def test_mlflow_has_one_run_with_the_new_limit(tmp_path: Path) -> None:
    each = {"checkpoint": {"every": "1 epochs"}, "tracking": {"every": "1 epochs", "enabled": True}}
    first = rayloom.run(case("softmax_regression", str(tmp_path), **each, stop={"epochs": 2}), local=True)
    more = rayloom.resume(first.run_dir.name, "stop.epochs=4", output=str(tmp_path))
    assert more.run_id == first.run_id == bound(more.run_dir)["run_id"]
    client = MlflowClient(more.tracking_uri)
    (found,) = client.search_runs([client.get_run(more.run_id).info.experiment_id])
    assert found.info.status == "FINISHED"
    assert found.data.params["stop.epochs"] == "2.0", "what it was started with; MLflow cannot change it"
    assert found.data.tags["rayloom.changed/stop.epochs"] == "4.0"
    assert found.data.tags["rayloom.stopped_by"] == "epochs >= 4"
    assert found.data.tags["rayloom.weights_sha256"] == more.weights_sha256
    steps = [point.step for point in client.get_metric_history(more.run_id, "evaluate/accuracy")]
    assert len(steps) == len(set(steps)) == 4
