"""The memory of a long run is flat. RAYLOOM_SOAK_S sets how long each run lasts (default 3600 s; 7200 s on Ray)."""

from __future__ import annotations

import contextlib
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
ASYNCHRONOUS_SOAK_S = float(os.environ.get("RAYLOOM_SOAK_S", "7200"))
_ALLOWED_BYTES = 30 * 2**20


class _SoakOverError(Exception):
    """The soak has lasted long enough."""


class _Memory(Observer):
    """Notes the resident memory at every report, and ends the run after the time is up."""

    def __init__(self, soak_s: float, family: bool = False) -> None:
        self._begin = time.monotonic()
        self._soak_s = soak_s
        self._family = family
        self.points: list[tuple[float, dict[str, int]]] = []

    def report(self, report: Report) -> None:
        elapsed = time.monotonic() - self._begin
        own = psutil.Process()
        sizes = {"driver": own.memory_info().rss}
        for child in own.children(recursive=True) if self._family else []:
            with contextlib.suppress(psutil.NoSuchProcess):
                kind = child.name().split("::")[-1].split(".")[0]
                if kind in ("RolloutActor", "raylet", "gcs_server"):  # the raylet holds the object store
                    sizes[kind] = sizes.get(kind, 0) + child.memory_info().rss
        self.points.append((elapsed, sizes))
        if elapsed > self._soak_s:
            raise _SoakOverError

    def _largest(self, name: str, third: int) -> int:
        begin, end = self._soak_s * third / 3, self._soak_s * (third + 1) / 3
        return max(sizes.get(name, 0) for elapsed, sizes in self.points if begin < elapsed <= end)

    def assert_flat(self) -> None:
        """The last third may hold little more than the second."""
        for name in self.points[-1][1]:
            third, last = self._largest(name, 1), self._largest(name, 2)
            grown = f"{name}: {(last - third) / 2**20:.1f} MiB more in the last third of {self._soak_s:g} s than before"
            print(grown)
            assert last - third < _ALLOWED_BYTES, grown


@pytest.mark.full
@pytest.mark.timeout(SOAK_S + 300)
@pytest.mark.parametrize("name", ["ppo", "dqn_prioritized_n_step", "softmax_regression", "wgan_gp"])
def test_memory_is_flat(name: str, tmp_path: Path) -> None:
    memory = _Memory(SOAK_S)
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
    memory.assert_flat()


@pytest.mark.full
@pytest.mark.xdist_group("ray")
@pytest.mark.timeout(ASYNCHRONOUS_SOAK_S + 300)
@pytest.mark.parametrize("name", ["impala", "dqn_ahead"])
def test_memory_of_all_processes_is_flat_with_rollouts_that_run_ahead(name: str, tmp_path: Path) -> None:
    memory = _Memory(ASYNCHRONOUS_SOAK_S, family=True)
    config = case(
        name,
        str(tmp_path),
        source={"rollout_workers": 2, "worker_cpus": 0, "in_flight": 2, "order": "arrival"},
        tracking={"every": "500 updates"},
        evaluate={"every": "5000 updates"},
        checkpoint={"every": "5000 updates"},
    )
    with pytest.raises(_SoakOverError):
        rayloom.run(replace(config, stop={"updates": 10**12}), observer=memory)
    assert {"driver", "RolloutActor", "raylet"} <= memory.points[-1][1].keys()
    memory.assert_flat()
