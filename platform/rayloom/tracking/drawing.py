"""Draws what a run without MLflow has to show, in a process of its own with low priority.

`python -m rayloom.tracking.drawing RUN_DIR [--curves]` draws every stored figure that has no picture yet, and the
learning curves and the animations over its steps at the end of a run.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

from rayloom.tracking.figure_drawing import DRAWING_LOCK

_DEADLINE_S = 120.0
_LOOK_S = 0.2


@contextlib.contextmanager
def alone(run_dir: Path) -> Iterator[None]:
    """Wait for the process that draws the same folder's figures at the moment; it has two minutes."""
    deadline = time.monotonic() + _DEADLINE_S
    with open(run_dir / DRAWING_LOCK, "ab") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"another process draws the figures of {run_dir} for too long") from None
                time.sleep(_LOOK_S)
        yield


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
    from rayloom.tracking.animations import draw_animations
    from rayloom.tracking.journal import read_metrics
    from rayloom.tracking.pictures import draw_curves

    run_dir = Path(arguments[0])
    os.nice(10)
    with alone(run_dir):
        draw_new(run_dir)
        if "--curves" in arguments:
            draw_curves(read_metrics(run_dir), run_dir / "curves.png")
            draw_animations(run_dir)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
