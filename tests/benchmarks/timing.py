"""How rayloom's side of a comparison is timed: a whole run, from its first report to its last."""

from __future__ import annotations

import tempfile
import time
from typing import Any

import rayloom
from rayloom.runs.observer import Observer, Report


class Stopwatch(Observer):
    """Keeps the time and the counters of every report."""

    def __init__(self) -> None:
        self.points: list[tuple[float, dict[str, int]]] = []

    def report(self, report: Report) -> None:
        """Note when and where the run is."""
        self.points.append((time.perf_counter(), report.counters))

    def rate(self, unit: str, warmup: float = 0.2) -> float:
        """Return `unit` per second from the first report after `warmup` of the run to the last."""
        total = self.points[-1][1][unit]
        start, counters = next(point for point in self.points if point[1][unit] >= warmup * total)
        end, last = self.points[-1]
        return (last[unit] - counters[unit]) / (end - start)


def run_rate(tree: dict[str, Any], unit: str) -> float:
    """Train the config in this process, with tracking and checkpoints, and return its rate."""
    stopwatch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        rayloom.run({**tree, "output": folder, "name": "benchmark"}, local=True, observer=stopwatch)
    return stopwatch.rate(unit)
