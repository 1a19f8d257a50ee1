"""Draws a study's pictures while it runs: a process of its own, with low priority, now and then and at the end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rayloom.files import INTERNAL, write_json
from rayloom.redaction import has_secret, redacted_url
from rayloom.runs.passwords import STORAGE
from rayloom.tracking.location import private_file
from rayloom.tracking.tracker import Tracker

if TYPE_CHECKING:
    from rayloom.search.study_plan import Study

_INTERVAL_S = 60.0
_DEADLINE_S = 300.0


class Drawing:
    """The one process that draws; its files become artifacts of the study's run."""

    def __init__(self, study: Study, tracker: Tracker) -> None:
        self._folder = study.folder
        self._tracker = tracker
        self._storage = study.settings.storage or str(study.folder / "optuna.journal")
        self._request = {
            "storage": redacted_url(self._storage),
            "study_name": study.folder.name,
            "folder": str(study.folder / "artifacts"),
            "metrics": list(study.metrics),
            "directions": list(study.directions),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._drawn = 0
        self._started_at = time.monotonic()
        self._sent: dict[str, int] = {}

    def update(self, ended: int) -> None:
        """Log what has been drawn; draw again when enough time has passed and trials have ended since."""
        if self._process is not None:
            if self._process.poll() is not None:
                self._collect()
            elif time.monotonic() - self._started_at > _DEADLINE_S:
                self._process.kill()
        elif ended > self._drawn and time.monotonic() - self._started_at > _INTERVAL_S:
            self._start(ended)

    def finish(self) -> None:
        """Draw the whole study and wait for it."""
        if self._process is not None:
            self._wait()
        self._start(-1)
        self._wait()

    def _start(self, ended: int) -> None:
        path = self._folder / "pictures.json"
        write_json(path, self._request)
        folders = [str(Path(entry).absolute()) for entry in sys.path]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": "1"}
        if has_secret(self._storage):  # the request has it without
            environment[STORAGE] = self._storage
        with private_file(self._folder / INTERNAL / "pictures.log") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "rayloom.search.pictures", str(path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        self._drawn, self._started_at = ended, time.monotonic()

    def _wait(self) -> None:
        assert self._process is not None
        try:
            self._process.wait(_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._collect()

    def _collect(self) -> None:
        """Log the files that are new; what could not be drawn stands in pictures.log."""
        self._process = None
        for path in sorted((self._folder / "artifacts").glob("*")):
            if path.suffix in (".png", ".csv", ".json"):
                changed = path.stat().st_mtime_ns
                if self._sent.get(path.name) != changed:
                    self._sent[path.name] = changed
                    self._tracker.log_file(path.name)
