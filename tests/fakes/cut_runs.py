"""Finished runs that look as if they had been killed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from rayloom.runs.observer import Result


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
