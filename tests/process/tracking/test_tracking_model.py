"""Logging the trained model: signature, open batch dimension, and failures that harm nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rayloom.files import write_json
from rayloom.tracking import journal
from tracking_store import DEADLINE_S, empty_store, losses, start, wait_for

LOADERS = """
import os, signal
import numpy as np
import torch
from torch import nn

class Frozen(nn.Module):
    def forward(self, x):
        return x.reshape(2, -1)

def good(run_dir):
    torch.manual_seed(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Dropout(0.9), nn.ReLU())
    return model, np.ones((2, 2, 3), np.float32), "six numbers to five"

def nothing(run_dir):
    return None

def raises(run_dir):
    raise ValueError("no weights in " + run_dir.name)

def dies(run_dir):
    os.kill(os.getpid(), signal.SIGKILL)

def frozen(run_dir):
    return Frozen(), np.ones((2, 4), np.float32), ""
"""


@pytest.fixture
def loaders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "fake_export.py").write_text(LOADERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "fake_export"


def test_a_failing_export_shows_and_harms_nothing(tmp_path: Path, loaders: str) -> None:
    store = empty_store(tmp_path / "out")
    tracker = start(tmp_path / "out")
    outcomes = {
        "raises": "failed: ValueError: no weights in run",
        "dies": "failed: the exporting process ended with code -9",
        "nothing": "none",
    }
    for step, (loader, outcome) in enumerate(outcomes.items()):
        tracker.log_model(tmp_path / "checkpoint", loader=f"{loaders}:{loader}")
        tracker.log_metrics({"train/loss": 1.0 / (step + 1)}, step)
        assert tracker.wait_run_id(DEADLINE_S)
        run_id = str(tracker.run_id)
        wait_for(lambda run=run_id, want=outcome: store.tags(run).get("rayloom.model") == want, outcome)
    assert store.rows("select count(*) from logged_models") == [(0,)]
    tracker.log_model(tmp_path / "checkpoint", loader=f"{loaders}:good")
    assert tracker.finish("FINISHED", timeout_s=DEADLINE_S)
    ((model_id, name, source, status),) = store.rows("select model_id, name, source_run_id, status from logged_models")
    assert (name, source) == ("model", run_id) and int(status) == 2  # READY
    assert store.tags(run_id)["rayloom.model"] == model_id
    assert store.points(run_id) == losses(0, 3) and store.status(run_id) == "FINISHED"
    assert "ValueError: no weights in run" in (tmp_path / "out" / "run" / "internal/writer.log").read_text()


def test_a_frozen_batch_dimension_is_refused(loaders: str) -> None:
    import importlib

    from rayloom.tracking.exporting import export_open_batch

    module = importlib.import_module(loaders)
    with pytest.raises(Exception, match=r"(?i)constraint|dynamic|speciali"):
        export_open_batch(*module.frozen(Path("run"))[:2])
    with pytest.raises(TypeError, match="returns tuple; MLflow deploys one output tensor"):
        export_open_batch(nn.LSTM(4, 3, batch_first=True), np.ones((2, 5, 4), np.float32))
    model, example, _ = module.good(Path("run"))
    export_open_batch(model.eval(), example)


def test_the_model_has_an_open_batch_and_an_interrupted_upload_is_completed(tmp_path: Path, loaders: str) -> None:
    import mlflow

    from rayloom.tracking.writer.model import load_and_log

    uri = f"sqlite:///{empty_store(tmp_path).database}"
    client = mlflow.MlflowClient(uri)
    experiment = client.create_experiment("e", (tmp_path / "artifacts").as_uri())
    run_id = client.create_run(experiment).info.run_id
    client.log_metric(run_id, "evaluate/accuracy", 0.5, step=7)
    run_journal = journal.Journal(tmp_path)
    run_journal.append({"kind": "metrics", "step": 7, "values": {"evaluate/accuracy": 0.5}})
    begun = client.create_logged_model(experiment, name="model", source_run_id=run_id)
    write_json(tmp_path / "internal/model.json", {"end": 9, "attempts": 1, "model_id": begun.model_id})
    for _ in range(2):
        assert load_and_log(tmp_path, uri, run_id, experiment, f"{loaders}:good") == begun.model_id

    (logged,) = client.search_logged_models([experiment])
    assert str(logged.status) == "READY"
    assert [(m.key, m.step, m.value) for m in logged.metrics] == [("evaluate/accuracy", 7, 0.5)]
    assert [m.model_id for m in client.get_run(run_id).outputs.model_outputs] == [logged.model_id]
    folder = logged.artifact_location.removeprefix("file://")
    suffixes = {path.suffix for path in Path(folder).rglob("*") if path.is_file()}
    assert ".pt2" in suffixes and not suffixes & {".pth", ".pkl", ".pt"}
    info = mlflow.models.get_model_info(folder)
    assert info.signature.inputs.inputs[0].shape == (-1, 2, 3)
    assert info.signature.outputs.inputs[0].shape == (-1, 5)
    inputs = np.arange(42, dtype=np.float32).reshape(7, 2, 3) / 42
    torch.manual_seed(3)
    expected = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU())(torch.from_numpy(inputs)).detach().numpy()
    found = mlflow.pyfunc.load_model(folder).predict(inputs)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
