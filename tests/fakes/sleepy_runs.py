"""Runs of which it is known where their time goes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from rayloom.config.load import from_tree
from rayloom.config.schema import RunConfig
from rayloom.runs.observer import Observer, Report, Result

SLEEPS: dict[str, dict[str, dict[str, Any]]] = {
    "step": {"source": {"env_options": {"step_s": 0.02}}},
    "inference": {"algorithm": {"act_s": 0.03}},
    "learn": {"algorithm": {"loss_s": 0.4}},
}


class Watcher(Observer):
    """Keeps the metrics of every report."""

    def __init__(self) -> None:
        self.reports: list[dict[str, float]] = []

    def report(self, report: Report) -> None:
        self.reports.append(report.metrics)


def sleepy(asleep: str, output: Path, **source: Any) -> RunConfig:
    """Return a run of 8 rollouts of 16 steps in 2 environments that sleeps for 3 seconds or more in one place."""
    sections = SLEEPS[asleep]
    tree: dict[str, Any] = {
        "name": f"sleepy_{asleep}",
        "output": str(output),
        "algorithm": {"import": "slow_parts:SlowPPO", "hidden_sizes": [8], **sections.get("algorithm", {})},
        "source": {
            "kind": "on_policy",
            "env": "slow_parts:Sleepy-v0",
            "num_envs": 2,
            "rollout_steps": 16,
            "epochs": 1,
            **sections.get("source", {}),
            **source,
        },
        "learner": {"batch_size": 32},
        "evaluate": {"episodes": 1},
        "checkpoint": {"every": "256 env_steps"},
        "tracking": {"enabled": False, "system_metrics": False, "every": "4 updates"},
        "stop": {"env_steps": 256},
    }
    return from_tree(tree)


def shares(metrics: dict[str, float], role: str) -> dict[str, float]:
    """Return a role's percentages by activity."""
    start = f"time/{role}_"
    return {name[len(start) : -8]: value for name, value in metrics.items() if name.startswith(start)}


def check_sums(watcher: Watcher, roles: tuple[str, ...]) -> None:
    assert len(watcher.reports) >= 2
    for metrics in watcher.reports:
        for role in roles:
            assert sum(shares(metrics, role).values()) == pytest.approx(100, abs=1), (role, metrics)


def dominates(shared: dict[str, float], activity: str) -> None:
    """Check for more than half of the time: on an idle machine it is 90 %, and a busy one must not fail the test."""
    assert shared[activity] > 50, shared


def check_advice(result: Result, advised: str | None) -> None:
    assert result.advice is None if advised is None else re.match(advised, result.advice or ""), result.advice
    written = json.loads((result.run_dir / "result.json").read_text())
    assert written["advice"] == result.advice
    journal = [json.loads(line) for line in (result.run_dir / "internal/journal.jsonl").read_text().splitlines()]
    tags = {key: value for record in journal for key, value in record.get("tags", {}).items()}
    assert tags.get("rayloom.runs.advice") == result.advice and tags["rayloom.stopped_by"] == result.stopped_by
