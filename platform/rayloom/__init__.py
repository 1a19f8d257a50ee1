"""One small engine for supervised, generative and reinforcement learning, in one process or on Ray."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rayloom.config.schema import RunConfig
    from rayloom.runs.observer import Observer, Result
    from rayloom.search.observer import StudyObserver, StudyResult

__version__ = "0.1.0"
__all__ = ["resume", "resume_study", "run", "run_study"]


def run(
    config: RunConfig | str | Mapping[str, Any],
    *overrides: str,
    local: bool = False,
    observer: Observer | None = None,
    job: str | None = None,
    chaos: str | None = None,
) -> Result:
    """Train one config to its end; see `rayloom.launch.run.run`."""
    from rayloom.launch.run import run as run_config

    return run_config(config, *overrides, local=local, observer=observer, job=job, chaos=chaos)


def resume(run_id: str, *, output: str = "rayloom-runs", observer: Observer | None = None) -> Result:
    """Continue an interrupted run exactly; see `rayloom.launch.run.resume`."""
    from rayloom.launch.run import resume as resume_run

    return resume_run(run_id, output=output, observer=observer)


def run_study(
    config: RunConfig | str | Mapping[str, Any],
    *overrides: str,
    local: bool = False,
    observer: StudyObserver | None = None,
) -> StudyResult:
    """Search the space of a config's `search` part; see `rayloom.launch.search.run_study`."""
    from rayloom.launch.search import run_study as search

    return search(config, *overrides, local=local, observer=observer)


def resume_study(
    study_id: str, *overrides: str, output: str = "rayloom-runs", observer: StudyObserver | None = None
) -> StudyResult:
    """Continue an interrupted study; see `rayloom.launch.search.resume_study`."""
    from rayloom.launch.search import resume_study as resume_search

    return resume_search(study_id, *overrides, output=output, observer=observer)
