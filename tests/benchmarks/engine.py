"""Start-up, and what tracking and checkpoints cost."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import Comparison
from reinforcement import PPO
from timing import Stopwatch

import rayloom


def _seconds(*command: str) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return time.perf_counter() - start


def _first_step(*options: str) -> float:
    """Return the seconds from the start of the process to the journal's first optimiser step."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.time()
        command = [sys.executable, "-m", "rayloom", "run", "ppo_cartpole", *options]
        command += [f"output={folder}", "tracking.every=1 updates", "stop.updates=20", "evaluate.every=null"]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        journal = next(Path(folder).glob("*/internal/journal.jsonl"))
        for line in journal.read_text().splitlines():
            record: dict[str, Any] = json.loads(line)
            if record["kind"] == "metrics":
                return float(record["time"] / 1000 - start)
    raise AssertionError("the run journaled no metrics")


def startup() -> list[Comparison]:
    """The time to the first optimiser step, against the imports alone and against a bare ray.init."""
    python = sys.executable
    return [
        Comparison(
            "first optimiser step, --local",
            "s",
            1,
            lambda: _first_step("--local"),
            lambda: _seconds(python, "-c", "import torch, gymnasium"),
            "import torch, gymnasium",
            "<= 1.5",
            lower_is_better=True,
        ),
        Comparison(
            "first optimiser step on Ray (1 rollout actor)",
            "s",
            1,
            lambda: _first_step("source.rollout_workers=1"),
            lambda: _seconds(python, "-c", "import ray; ray.init(address='local', include_dashboard=False)"),
            "ray.init",
            "<= peer + 5 s",
            lower_is_better=True,
        ),
    ]


def _run_seconds(tracked: bool) -> float:
    stopwatch = Stopwatch()
    plain = {} if tracked else {"tracking": {"enabled": False}, "checkpoint": {"every": "1_000_000_000 updates"}}
    with tempfile.TemporaryDirectory() as folder:
        tree = {**PPO, "stop": {"env_steps": 204_800}, **plain, "output": folder, "name": "benchmark"}
        rayloom.run(tree, local=True, observer=stopwatch)
    return 1.0 / stopwatch.rate("env_steps") * 1e6


def tracking() -> list[Comparison]:
    """A run with default tracking and checkpoints against one without both."""
    return [
        Comparison(
            "PPO run with tracking and checkpoints",
            "µs/env step",
            1,
            lambda: _run_seconds(True),
            lambda: _run_seconds(False),
            "without",
            "<= 1.01",
            lower_is_better=True,
        )
    ]


COMPARISONS: dict[str, Callable[[], list[Comparison]]] = {"startup": startup, "tracking": tracking}
