"""Draws what a run without MLflow has to show, in a process of its own with low priority.

`python -m rayloom.tracking.drawing RUN_DIR [--curves]` draws every stored figure that has no picture yet, and the
learning curves at the end of a run.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

_INTERVAL_S = 30.0
_DEADLINE_S = 60.0


class FigureDrawing:
    """The one drawing process of a run: started now and then, and once at the end."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._process: subprocess.Popen[bytes] | None = None
        self._next_at = 0.0

    def update(self) -> None:
        """Start drawing what is new, unless that is going on or has been done a moment ago."""
        if time.monotonic() >= self._next_at and (self._process is None or self._process.poll() is not None):
            self._start()

    def finish(self) -> None:
        """Let the rest be drawn, curves included; that process may outlive this one."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_DEADLINE_S)
        self._start("--curves")

    def _start(self, *more: str) -> None:
        folders = [str(Path(entry).absolute()) for entry in sys.path]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": "1"}
        with open(self._run_dir / "drawing.log", "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "rayloom.tracking.drawing", str(self._run_dir), *more],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        self._next_at = time.monotonic() + _INTERVAL_S


def draw_new(run_dir: Path) -> list[Path]:
    """Draw the figures of a run folder that have no picture yet; return the pictures. Damaged ones are reported."""
    from rayloom.tracking.pictures import draw_stored, picture_of

    drawn = []
    for stored in sorted((run_dir / "figures").rglob("step_*.npz")):
        if stored.name.endswith(".new.npz"):
            continue
        try:
            if not picture_of(stored).exists():
                drawn.append(draw_stored(stored))
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            print(f"{stored} cannot be drawn: {type(error).__name__}: {error}", file=sys.stderr)
    return drawn


def main(arguments: list[str]) -> int:
    """Draw with the arguments of the command line."""
    from rayloom.tracking.journal import read_metrics
    from rayloom.tracking.pictures import draw_curves

    run_dir = Path(arguments[0])
    os.nice(10)
    draw_new(run_dir)
    if "--curves" in arguments:
        draw_curves(read_metrics(run_dir), run_dir / "curves.png")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
