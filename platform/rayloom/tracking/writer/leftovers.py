"""Gives a true end to runs whose driver and writer were both killed: replays the journal, sets the terminal status.

`python -m rayloom.tracking.writer.leftovers RUNS_ROOT`, started in the background by the writer of the next run in the
same output folder. Nothing but the standard library and psutil is loaded unless there is something to reap.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rayloom.errors import UserError
from rayloom.tracking import journal
from rayloom.tracking.writer.log import say
from rayloom.tracking.writer.stale import find_stale, is_stale

_DRAIN_S = 60.0


def reap(runs_root: Path, drain_s: float = _DRAIN_S) -> list[Path]:
    """Deliver and end every stale run; return the run folders that are settled now. Two reapers do not fight."""
    settled: list[Path] = []
    with journal.locked(runs_root / "reap.lock", 0.0) as alone:
        for run_dir in find_stale(runs_root) if alone else []:
            try:
                with journal.locked(run_dir / journal.LOCK, 0.0) as held:
                    if held and is_stale(run_dir) and _settle(run_dir, drain_s):
                        settled.append(run_dir)
            except (UserError, OSError) as error:  # of this run alone: the others are delivered all the same
                say(f"{run_dir} cannot be delivered: {error}")
    return settled


def _settle(run_dir: Path, drain_s: float) -> bool:
    from rayloom.tracking.writer.process import make_writer

    say(f"reaping {run_dir}")
    return make_writer(run_dir, driver_pid=None, drain_s=drain_s).run() == 0


if __name__ == "__main__":
    from rayloom.tracking.writer.process import prepare_process

    prepare_process()
    reap(Path(sys.argv[1]))
