"""The memory of a long run is flat. RAYLOOM_SOAK_S sets how long each run lasts (default 3600 s)."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from cases import case

import rayloom
from rayloom.observer import Observer, Report

SOAK_S = float(os.environ.get("RAYLOOM_SOAK_S", "3600"))
_ALLOWED_BYTES = 30 * 2**20


class _SoakOverError(Exception):
    """The soak has lasted long enough."""


class _Memory(Observer):
    """Notes the resident memory at every report, and ends the run after the time is up."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self.points: list[tuple[float, int]] = []

    def report(self, report: Report) -> None:
        elapsed = time.monotonic() - self._begin
        self.points.append((elapsed, psutil.Process().memory_info().rss))
        if elapsed > SOAK_S:
            raise _SoakOverError


@pytest.mark.full
@pytest.mark.timeout(SOAK_S + 300)
@pytest.mark.parametrize("name", ["ppo", "dqn_prioritized_n_step", "softmax_regression", "wgan_gp"])
def test_memory_is_flat(name: str, tmp_path: Path) -> None:
    memory = _Memory()
    # Log, evaluate and checkpoint often: that is where a leak would be.
    config = case(
        name,
        str(tmp_path),
        tracking={"every": "200 updates"},
        evaluate={"every": "1000 updates"},
        checkpoint={"every": "1000 updates"},
    )
    with pytest.raises(_SoakOverError):
        rayloom.run(replace(config, stop={"updates": 10**12}), observer=memory)
    third = [rss for elapsed, rss in memory.points if SOAK_S / 3 < elapsed <= SOAK_S * 2 / 3]
    last = [rss for elapsed, rss in memory.points if elapsed > SOAK_S * 2 / 3]
    growth = max(last) - max(third)
    assert growth < _ALLOWED_BYTES, f"{growth / 2**20:.1f} MiB more in the last third of {SOAK_S:g} s than before"
