"""Runs `rayloom` as a process of its own, so that it can be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from rayloom.config.schema import RunConfig
from rayloom.tracking.journal import read_metrics

DEADLINE_S = 180.0


def write_config(config: RunConfig, folder: Path) -> Path:
    """Write the config where a process can read it."""
    path = folder / f"{config.name}.yaml"
    path.write_text(yaml.safe_dump(config.to_tree(), sort_keys=False))
    return path


def start(*arguments: str, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    """Start `rayloom ARGUMENTS --json`."""
    return subprocess.Popen(
        [sys.executable, "-m", "rayloom", *arguments, "--json"],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for success and return the JSON line."""
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, err[-4000:]
    result: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    return result


def run_folder(output: Path) -> Path:
    """Return the only run folder, or the output folder's own path while there is none."""
    return next((path.parent for path in output.glob("*/config.yaml")), output)


def journal_lines(output: Path) -> int:
    """Return the number of metric records that the run has journaled."""
    journal = run_folder(output) / "internal/journal.jsonl"
    return journal.read_bytes().count(b'"metrics"') if journal.exists() else 0


def kill_after(process: subprocess.Popen[str], output: Path, lines: int, number: int = signal.SIGKILL) -> bool:
    """Send a signal once the run has journaled so many records; False when it had ended before."""
    deadline = time.monotonic() + DEADLINE_S
    while journal_lines(output) < lines and process.poll() is None:
        assert time.monotonic() < deadline, "the run journals nothing"
        time.sleep(0.002)
    if process.poll() is not None:
        return False
    process.send_signal(number)
    process.wait(timeout=60)
    return True


def history(folder: Path) -> list[tuple[int, str, float]]:
    """Return the metric history without what depends on the clock, in order, NaN made comparable."""
    return [
        (step, key, -1e300 if value != value else value)
        for step, key, value in read_metrics(folder)
        if key.startswith(("train/", "evaluate/"))
    ]
