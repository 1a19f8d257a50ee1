"""The process that draws the pictures of a study."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import optuna


def test_the_process_prints_what_it_left_out_and_nothing_else(tmp_path: Path) -> None:
    log, folder = str(tmp_path / "study.log"), tmp_path / "pictures"
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(log))
    study = optuna.create_study(storage=storage, study_name="s", direction="maximize")
    kinds = {"rate": optuna.distributions.FloatDistribution(0.0, 1.0)}
    for rate in (0.1, 0.4, 0.8):
        study.add_trial(optuna.trial.create_trial(value=rate**2, params={"rate": rate}, distributions=kinds))
    request = tmp_path / "request.json"
    names = {"metrics": ["evaluate/accuracy"], "directions": ["maximize"]}
    request.write_text(json.dumps({"storage": log, "study_name": "s", "folder": str(folder), **names}))
    command = [sys.executable, "-m", "rayloom.search.pictures", str(request)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == ""
    assert done.stderr == "importances.png: fewer than 4 trials were complete\n"
    assert {"history.png", "trials.csv"} <= {path.name for path in folder.iterdir()}
