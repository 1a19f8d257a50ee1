"""How a run says it ended is how it ended, whatever became of its folder and of the process that writes to MLflow."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

import rayloom
from cases import case
from rayloom.errors import UserError
from rayloom.runs.observer import Observer, Report


class Deleter(Observer):
    """Deletes the folder of the run at its third report, as a person may who tidies up."""

    def __init__(self) -> None:
        self.folder = Path()
        self.reports = 0

    def started(self, config: object, plan: object, run_dir: Path) -> None:
        self.folder = run_dir

    def report(self, report: Report) -> None:
        self.reports += 1
        if self.reports == 3:
            shutil.rmtree(self.folder)


class Remarks(Observer):
    """Keeps remarks."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.parametrize("name", ["softmax_regression", "ppo"])
def test_a_run_whose_folder_was_deleted_has_not_finished(name: str, tmp_path: Path) -> None:
    config = case(name, str(tmp_path), tracking={"every": "1 updates"})
    with pytest.raises(UserError, match="was deleted while the run was going on"):
        rayloom.run(config, local=True, observer=Deleter())


def test_a_writer_that_cannot_live_is_named_and_not_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayloom.tracking.tracker._RESTART_PAUSE_S", 0.01)
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    remarks = Remarks()
    tracking = {"enabled": True, "pictures": False, "every": "1 updates"}
    result = rayloom.run(case("softmax_regression", str(tmp_path), tracking=tracking), local=True, observer=remarks)
    assert result.status == "FINISHED" and result.run_id == result.run_dir.name
    (note,) = [note for note in remarks.notes if "MLflow has not got everything" in note]
    assert "the process that writes to it ended 6 times, the last time with 1" in note and "slow" not in note
