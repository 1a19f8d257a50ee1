"""Starts the process that draws the figures of a run without MLflow (`drawing`)."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from rayloom.files import INTERNAL
from rayloom.tracking.location import private_file

DRAWING_LOG = f"{INTERNAL}/drawing.log"
DRAWING_LOCK = f"{INTERNAL}/drawing.lock"
_INTERVAL_S = 30.0


class FigureDrawing:
    """The drawing process of a run: started now and then, and once at the end. A run never waits for it."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._process: subprocess.Popen[bytes] | None = None
        # A short run has one at its end alone: what draws takes seconds to import.
        self._next_at = time.monotonic() + _INTERVAL_S

    def update(self) -> None:
        """Start drawing what is new, unless that is going on or has been done a moment ago."""
        if time.monotonic() >= self._next_at and (self._process is None or self._process.poll() is not None):
            self._start()

    def finish(self) -> None:
        """Let the rest be drawn, curves included; that process outlives this one, and waits for an earlier one."""
        self._start("--curves")

    def _start(self, *more: str) -> None:
        folders = [str(Path(entry).absolute()) for entry in sys.path]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": "1"}
        with private_file(self._run_dir / DRAWING_LOG) as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "rayloom.tracking.drawing", str(self._run_dir), *more],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        self._next_at = time.monotonic() + _INTERVAL_S
