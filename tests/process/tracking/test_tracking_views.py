"""`rayloom ui` names a link for each experiment that opens its runs as one compares them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

import rayloom
from cases import case
from loopback import free_port
from rayloom.cli import main as cli
from rayloom.tracking.views import experiment_links


def test_an_experiment_has_a_view_with_what_one_compares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp_path /= "runs 100% c?d"  # signs that mean something in a URL
    store = tmp_path / "mlflow.db"
    assert experiment_links(store, "http://here") == {} and not store.exists()
    result = rayloom.run(case("softmax_regression", str(tmp_path), tracking={"enabled": True}), local=True)
    client = MlflowClient(result.tracking_uri)
    experiment = client.get_run(result.run_id).info.experiment_id
    client.create_experiment("somebody else's")
    link = f"http://here/#/experiments/{experiment}/runs?viewStateShareKey=rayloom&workflowType=machine_learning"
    assert experiment_links(store, "http://here") == {"rayloom_supervised": link}
    view = json.loads(client.get_experiment(experiment).tags["mlflow.sharedViewState.rayloom"])
    columns = view["selectedColumns"]
    shown = client.get_run(result.run_id).data
    for kind, known in (("metrics", shown.metrics), ("params", shown.params), ("tags", shown.tags)):
        assert any(f"{kind}.`{key}`" in columns for key in known), f"the view shows none of the {kind}"
    monkeypatch.setattr("os.execv", lambda *words: None)
    port = free_port()
    cli.main(["ui", "--output", str(tmp_path), "--port", str(port)])
    assert f"rayloom_supervised: {link.replace('here', f'127.0.0.1:{port}')}" in capsys.readouterr().out
