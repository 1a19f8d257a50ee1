"""Draws what a run without MLflow has to show, in a process of its own with low priority.

`python -m rayloom.tracking.drawing RUN_DIR [--curves]` draws every stored figure that has no picture yet, and the
learning curves at the end of a run.
"""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path


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
