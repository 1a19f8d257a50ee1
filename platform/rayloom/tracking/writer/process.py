"""The process that carries journals to MLflow: `python -m rayloom.tracking.writer.process RUN_DIR DRIVER_PID DRAIN_S`.

The Tracker starts it: for a run a writer, for a study a host that serves the study and all its trials.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TextIO, cast

from rayloom.redaction import RedactedStream
from rayloom.tracking import journal
from rayloom.tracking.location import TRACKING_URI
from rayloom.tracking.writer.log import say
from rayloom.tracking.writer.run_writer import Writer
from rayloom.tracking.writer.study_writer import Host

_LOCK_DEADLINE_S = 600.0
_NICENESS = 5
_HOST_NICENESS = 10
_MLFLOW_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def make_writer(run_dir: Path, driver_pid: int | None, drain_s: float) -> Writer | Host:
    """Return what serves a folder whose lock this process holds: a host for a study, else a writer."""
    return Host(run_dir, driver_pid, drain_s) if is_study(run_dir) else Writer(run_dir, driver_pid, drain_s)


def is_study(run_dir: Path) -> bool:
    """Tell whether the newest start of a run said that it hosts trials."""
    last = journal.last_start(run_dir)
    return last is not None and bool(last[0].get("hosts"))


def prepare_process(niceness: int = _NICENESS) -> None:
    """Step behind the training, outlive the signals that end it, and keep MLflow's own waits and secrets short."""
    os.nice(niceness)
    uri = os.environ.get(TRACKING_URI, "")
    sys.stdout, sys.stderr = (cast(TextIO, RedactedStream(stream, uri)) for stream in (sys.stdout, sys.stderr))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for key, value in _MLFLOW_SETTINGS.items():
        os.environ.setdefault(key, value)
    os.environ.pop("MLFLOW_RUN_ID", None)


def main(arguments: list[str]) -> int:
    """Serve a run, or a study with its trials, from its start to its end."""
    run_dir, driver_pid, drain_s = Path(arguments[0]), int(arguments[1]), float(arguments[2])
    prepare_process(_HOST_NICENESS if is_study(run_dir) else _NICENESS)
    with journal.locked(run_dir / journal.LOCK, _LOCK_DEADLINE_S) as held:
        if not held:
            say("another writer has been serving this run for too long")
            return 1
        return make_writer(run_dir, driver_pid, drain_s).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
