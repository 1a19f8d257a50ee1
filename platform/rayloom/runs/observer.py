"""What a run tells whoever watches it: the progress display, a test, a notebook."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rayloom.config.schema import RunConfig
    from rayloom.runs.plan import Plan


@dataclass(frozen=True)
class Report:
    """The state of a run at a log step."""

    counters: dict[str, int]
    """Totals since the start: updates, env_steps, samples, epochs, episodes (those that apply)."""
    metrics: dict[str, float]
    """The newest value of every metric, by its full name."""
    fraction: float
    """Share of the stopping budget that is spent, 0 to 1."""
    elapsed_s: float
    """Seconds since this process started the run."""


@dataclass(frozen=True)
class Result:
    """What a run returns."""

    run_id: str
    """MLflow run id, or the run folder's name when the tracking server was never reached."""
    status: str
    """FINISHED, FAILED or KILLED."""
    metrics: dict[str, float]
    """The last value of every metric."""
    counters: dict[str, int]
    """Totals at the end."""
    weights_sha256: str
    """Hash over the sorted names and raw bytes of all trained tensors."""
    run_dir: Path
    """Folder with the config, journal and checkpoints."""
    tracking_uri: str
    """MLflow store, without a password."""
    stopped_by: str
    """The stopping condition that was reached."""
    advice: str | None = None
    """What to change when a part of the run was starved, by its timelines; None when all is well."""
    chaos: Mapping[str, Any] | None = None
    """Which faults were injected and what became of them (`rayloom.launch.chaos.Chaos.report`); None without chaos."""


class Observer:
    """Receives the events of one run, all from the driver's thread. Every method does nothing by default."""

    def started(self, config: RunConfig, plan: Plan, run_dir: Path) -> None:
        """Called once, after the preflight and before the first step."""

    def run_id(self, run_id: str) -> None:
        """Called once, as soon as the tracker's id of the run is known."""

    def report(self, report: Report) -> None:
        """Called at every log step."""

    def note(self, text: str) -> None:
        """Called with one-line remarks."""

    def finished(self, result: Result) -> None:
        """Called once, after the last checkpoint and after the tracker was closed."""
