"""A whole run and a study in an output folder whose name means something in a URL."""

from __future__ import annotations

import signal
import stat
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cases import case
from processes import run_folder, write_config
from rayloom.database_urls import sqlite_path, sqlite_url
from rayloom.tracking.journal import is_delivered
from search_cases import GRID, Forked, kill_when, outcome, search, study, study_folder
from tracking_store import StoreView, wait_for

TRACKED = {"enabled": True, "system_metrics": False}


def test_a_run_and_a_study_in_a_folder_with_signs_of_urls(tmp_path: Path) -> None:
    output = tmp_path / "a b#c?d%20é" / "out"
    algorithm = {"import": "search_cases:Probe", "pause_s": 0.06}
    tracking = {**TRACKED, "wait_for_model": True}
    given = write_config(case("softmax_regression", str(output), algorithm=algorithm, tracking=tracking), tmp_path)
    process = Forked("run", str(given), "--local", cwd=tmp_path)
    assert kill_when(process, lambda: list(output.glob("*/checkpoints/*")), signal.SIGTERM)
    assert outcome(process)[0] == 143
    folder = run_folder(output)
    code, line, err = outcome(Forked("resume", folder.name, f"--output={output}", cwd=tmp_path))
    assert code == 0 and sqlite_path(line["tracking_uri"]) == output / "mlflow.db", err
    code, evaluated, err = outcome(Forked("evaluate", line["run_id"], f"--output={output}", cwd=tmp_path))
    assert code == 0, err
    assert evaluated["metrics"]["evaluate/accuracy"] == line["metrics"]["evaluate/accuracy"]
    wait_for(lambda: is_delivered(folder), "the delivery")
    view = StoreView(output / "mlflow.db")
    assert view.runs() == [line["run_id"]] and view.status(line["run_id"]) == "FINISHED"
    assert view.tags(line["run_id"])["rayloom.model"].startswith("m-"), (folder / "internal/writer.log").read_text()
    ((location,),) = view.rows("select artifact_uri from runs where lifecycle_stage = 'active'")
    artifacts = Path(unquote(urlsplit(location).path))
    assert artifacts.is_relative_to(output / "mlartifacts") and (artifacts / "config.yaml").is_file()
    assert not stat.S_IMODE((output / "mlflow.db").stat().st_mode) & stat.S_IROTH

    storage = sqlite_url(output / "study.db")
    space = {"space": {"algorithm.l2": GRID["algorithm.l2"][:2]}, "sampler": "grid", "metric": "evaluate/accuracy"}
    process = search(study("s", output, {**space, "storage": storage}, tracking=TRACKED), tmp_path, "--local")
    code, line, err = outcome(process)
    assert code == 0 and line["trials"]["COMPLETE"] == 2, err
    assert (study_folder(output) / "artifacts" / "trials.csv").read_text().count("\n") == 3
    wait_for(lambda: is_delivered(study_folder(output)), "the delivery")
    assert len(view.runs()) == 4

    names = {entry.name for entry in tmp_path.iterdir()} - {given.name, "s.yaml"}
    assert {name for name in names if not name.startswith("process-")} == {"a b#c?d%20é"}, "MLflow made another folder"
