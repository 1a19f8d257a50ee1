"""Run folders whose driver died before everything was delivered."""

from __future__ import annotations

from pathlib import Path

from rayloom.files import DamagedFileError
from rayloom.tracking import journal
from rayloom.tracking.writer.log import say


def find_stale(runs_root: Path) -> list[Path]:
    """Return the run folders, one or two levels down, that nobody serves and that MLflow does not have whole."""
    found = sorted({*runs_root.glob(f"*/{journal.PROCESS}"), *runs_root.glob(f"*/*/{journal.PROCESS}")})
    return [run_dir for run_dir in (path.parents[1] for path in found) if is_stale(run_dir)]


def is_stale(run_dir: Path) -> bool:
    """Tell whether the driver of a tracked run is dead on this machine and its journal is not delivered.

    A run of another machine in a shared folder is never stale: its driver cannot be asked. Nor is a trial: its study
    is, and is delivered only after all its trials. Nor one whose files are damaged, which is told.
    """
    try:
        process = journal.read_process(run_dir)
        if not process or not process.get("tracked") or process.get("hosted"):
            return False
        if journal.is_alive(process) is not False:
            return False
        return journal.last_start(run_dir) is not None and not journal.is_delivered(run_dir)
    except DamagedFileError as error:
        say(f"leaving {run_dir.name}: {error}")
        return False
