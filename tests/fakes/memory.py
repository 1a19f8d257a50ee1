"""Resident memory of a run and its processes over time."""

from __future__ import annotations

import contextlib
import time

import psutil

from rayloom.runs.observer import Observer, Report

AHEAD = {"rollout_workers": 2, "worker_cpus": 0, "in_flight": 2, "order": "arrival"}
"""Settings of a source whose rollouts run ahead."""
_KINDS = ("RolloutActor", "raylet", "gcs_server")  # the raylet holds the object store


class SoakOverError(Exception):
    """The soak has lasted long enough."""


class Memory(Observer):
    """Notes the resident memory at every report, and ends the run after `soak_s` seconds; `family`: on Ray."""

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
                if kind in _KINDS:
                    sizes[kind] = sizes.get(kind, 0) + child.memory_info().rss
        self.points.append((elapsed, sizes))
        if elapsed > self._soak_s:
            raise SoakOverError

    def largest_mib(self, name: str, third: int) -> float:
        """Return the most that processes of a kind held in a third (0, 1, 2) of the time (MiB)."""
        begin, end = self._soak_s * third / 3, self._soak_s * (third + 1) / 3
        return max(sizes.get(name, 0) for elapsed, sizes in self.points if begin < elapsed <= end) / 2**20
