"""What must hold at the end of a run that was struck: counted once, told truly, nothing left behind."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from rayloom.config.schema import RunConfig
from rayloom.runs.folders import read_result
from rayloom.runs.observer import Result
from rayloom.tracking.journal import read_metrics
from tracking_store import StoreView

ACTORS = ("ray::RolloutActor", "ray::EnvironmentActor", "ray::LearnerActor", "ray::EvaluatorActor")
_DEADLINE_S = 60.0


def wait_until(condition: Callable[[], Any], what: Callable[[], str]) -> None:
    deadline = time.monotonic() + _DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.1)


def own_actors() -> list[str]:
    """Return the roles' actors below this process, those that are dead but not yet buried left out."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            title = " ".join(process.cmdline())
            if title.startswith(ACTORS) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{title} ({process.pid})")
        except psutil.NoSuchProcess:
            continue
    return found


def assert_nothing_left() -> None:
    wait_until(lambda: not own_actors(), lambda: f"left behind: {own_actors()}")


def assert_points_once(result: Result, store: Path | None) -> None:
    """Every metric point is in the journal once, and so it is in MLflow."""
    points = Counter((key, step) for step, key, _ in read_metrics(result.run_dir))
    doubled = [point for point, number in points.items() if number > 1]
    assert not doubled, doubled[:10]
    if store is not None:
        view = StoreView(store)
        assert Counter((key, step) for key, step, _ in view.points(result.run_id)) == points
        assert view.status(result.run_id) == "FINISHED"


def assert_survived(config: RunConfig, result: Result, store: Path | None = None) -> None:
    """Check a run that was struck as it was told and yet came to its end."""
    assert result.chaos is not None
    assert result.chaos["unanswered"] == {} and result.chaos["not_struck"] == {}, result.chaos
    assert result.chaos["struck"] == result.chaos["replaced"], result.chaos
    unit, limit = next(iter(config.budget().items()))
    assert (result.status, result.stopped_by) == ("FINISHED", f"{unit} >= {limit}")
    recorded = read_result(result.run_dir)
    assert recorded is not None
    assert (recorded["status"], recorded["counters"]) == ("FINISHED", result.counters)
    assert recorded["chaos"] == result.chaos
    assert_points_once(result, store)
    assert_nothing_left()
