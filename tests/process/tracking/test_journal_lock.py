"""The lock of a journal excludes other processes."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

from rayloom.tracking.journal import locked


def _hold(path: Path, ready: object, release: object) -> None:
    with locked(path, 0.0) as held:
        assert held
        ready.set()  # type: ignore[attr-defined]
        release.wait(30)  # type: ignore[attr-defined]


def test_a_lock_excludes_other_processes(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, release = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path / "lock", ready, release))
    holder.start()
    assert ready.wait(60)
    with locked(tmp_path / "lock", 0.1) as held:
        assert not held
    release.set()
    with locked(tmp_path / "lock", 30.0) as held:
        assert held
    holder.join(30)
