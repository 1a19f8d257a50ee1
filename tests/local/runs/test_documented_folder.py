"""docs/run_folder.md names everything that lies in the folder of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

import rayloom
from cases import case

GUIDE = Path(__file__).resolve().parents[3] / "docs" / "run_folder.md"


@pytest.mark.parametrize("tracked", [False, True])
def test_everything_in_a_run_folder_is_explained(tracked: bool, tmp_path: Path) -> None:
    config = case(
        "softmax_regression", str(tmp_path), tracking={"enabled": tracked, "pictures": True}, stop={"epochs": 1}
    )
    folder = rayloom.run(config, local=True).run_dir
    told = GUIDE.read_text(encoding="utf-8")
    for path in (*folder.iterdir(), *(folder / "internal").iterdir()):
        assert f"`{path.name}" in told, path.name
    for path in folder.iterdir():
        assert path.suffix not in (".lock", ".jsonl", ".ack", ".log"), path.name
    assert {"journal.jsonl", "process.json", "process.lock", "local"} <= {
        p.name for p in (folder / "internal").iterdir()
    }
