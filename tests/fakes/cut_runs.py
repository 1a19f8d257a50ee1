"""Finished runs that look as if they had been killed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from rayloom.runs.observer import Result
from rayloom.tracking.journal import read_records


def without_its_end(result: Result, output: Path) -> str:
    """Copy a finished run into `output` as if it had been killed before its last checkpoint; return its id there."""
    folder = output / result.run_dir.name
    shutil.copytree(result.run_dir, folder)
    (folder / "result.json").unlink()
    process = json.loads((folder / "internal/process.json").read_text(encoding="utf-8"))
    (folder / "internal/process.json").write_text(json.dumps({**process, "pid": 2**22 + 1}), encoding="utf-8")
    kept = sorted((folder / "checkpoints").glob("step_*"))
    assert len(kept) > 1, "there is nothing to go on from"
    shutil.rmtree(kept[-1])
    return folder.name


def assert_no_point_twice(folder: Path) -> None:
    """Every metric point of a run's journal stands there once, and there are some."""
    points: list[tuple[int, int, str]] = []
    for record, _ in read_records(folder):
        if record["kind"] == "metrics":
            points += [(record["step"], record["updates"], key) for key in record["values"]]
    assert len(points) == len(set(points)) > 0
