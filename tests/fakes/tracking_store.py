"""What the tracking tests share: a store that is migrated once, and a look into it that does not go through MLflow."""

from __future__ import annotations

import functools
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from places import FAKES
from rayloom.database_urls import sqlite_url
from rayloom.tracking.journal import read_binding
from rayloom.tracking.tracker import Tracker

DEADLINE_S = 140.0
"""Generous: the writer steps behind everything else that a busy machine does."""


@functools.cache
def _template() -> bytes:
    """A migrated store without runs: the migration takes seconds, so it is done once per test process."""
    with tempfile.TemporaryDirectory() as folder:
        code = f"from mlflow import MlflowClient; MlflowClient('sqlite:///{folder}/mlflow.db').search_experiments()"
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)
        return (Path(folder) / "mlflow.db").read_bytes()


def bound(run_dir: Path) -> dict[str, Any]:
    """Return which MLflow run a folder's run became."""
    binding = read_binding(run_dir)
    assert binding is not None, f"{run_dir} is not in MLflow"
    return binding


def empty_store(folder: Path) -> StoreView:
    """Put a migrated store in a folder, in place of the one that may be there."""
    folder.mkdir(exist_ok=True)
    (folder / "mlflow.db").write_bytes(_template())
    return StoreView(folder / "mlflow.db")


@dataclass(frozen=True)
class StoreView:
    """Reads the tables of a store."""

    database: Path

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with sqlite3.connect(f"{self.database.as_uri()}?mode=ro", uri=True, timeout=30) as connection:
            return connection.execute(query, values).fetchall()

    def points(self, run_id: str) -> list[tuple[str, int, float]]:
        """Every stored training point, doubled ones twice."""
        query = "select key, step, value from metrics where run_uuid = ? and key not like 'system/%' order by key, step"
        return self.rows(query, run_id)

    def status(self, run_id: str) -> str:
        return str(self.rows("select status from runs where run_uuid = ?", run_id)[0][0])

    def runs(self) -> list[str]:
        return [row[0] for row in self.rows("select run_uuid from runs where lifecycle_stage = 'active'")]

    def tags(self, run_id: str) -> dict[str, str]:
        return dict(self.rows("select key, value from tags where run_uuid = ?", run_id))

    def params(self, run_id: str) -> dict[str, str]:
        return dict(self.rows("select key, value from params where run_uuid = ?", run_id))


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what} did not happen in {DEADLINE_S:g} s")


def start(output: Path, name: str = "run", *, resume: bool = False, **settings: Any) -> Tracker:
    arguments: dict[str, Any] = {
        "uri": sqlite_url(output / "mlflow.db"),
        "experiment": "agents",
        "run_name": name,
        "params": {},
        "tags": {},
        "system_metrics": False,
        **settings,
    }
    return Tracker.start(output / name, resume=resume, **arguments)


def start_study(output: Path, *, resume: bool = False, **settings: Any) -> Tracker:
    """Start a study, whose writer serves its trials too."""
    return start(output, "study", resume=resume, hosts=True, **settings)


def start_trial(output: Path, number: int, *, resume: bool = False, **settings: Any) -> Tracker:
    """Start a trial of the study in `output`."""
    arguments = {"uri": sqlite_url(output / "mlflow.db"), "hosted": True, **settings}
    return start(output / "study" / "trials", f"{number:04d}", resume=resume, **arguments)


DRIVER = """
import sys, time
from pathlib import Path
from tracking_store import DEADLINE_S, start
output, name, first, last = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
tracker = start(output, name, resume=first > 0)
try:
    for step in range(first, last):
        tracker.log_metrics({"train/loss": 1.0 / (step + 1)}, step)
    print(tracker.wait_run_id(DEADLINE_S), flush=True)
    time.sleep(280)
except KeyboardInterrupt:
    print(tracker.finish("KILLED", timeout_s=DEADLINE_S), flush=True)
"""


def start_driver(output: Path, name: str, first: int, last: int) -> tuple[subprocess.Popen[str], str]:
    """Start a driver that logs train/loss at the steps first..last-1 and then sleeps; return it with its run id."""
    command = [sys.executable, "-c", DRIVER, str(output), name, str(first), str(last)]
    driver = subprocess.Popen(command, cwd=FAKES, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert driver.stdout is not None
    return driver, driver.stdout.readline().strip()


def losses(first: int, last: int) -> list[tuple[str, int, float]]:
    return [("train/loss", step, 1.0 / (step + 1)) for step in range(first, last)]
