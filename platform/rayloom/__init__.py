"""One small engine for supervised, generative and reinforcement learning, in one process or on Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from rayloom.config.schema import RunConfig
    from rayloom.launch.trained import Evaluated, Trained, Written
    from rayloom.runs.observer import Observer, Result
    from rayloom.runs.weights import Which
    from rayloom.search.observer import StudyObserver, StudyResult

__version__ = "0.1.0"
__all__ = ["evaluate", "export", "load", "predict", "resume", "resume_study", "run", "run_study", "sample"]


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


def resume(run_id: str, *overrides: str, output: str = "rayloom-runs", observer: Observer | None = None) -> Result:
    """Continue an interrupted run exactly, or one that has finished further; see `rayloom.launch.run.resume`."""
    from rayloom.launch.run import resume as resume_run

    return resume_run(run_id, *overrides, output=output, observer=observer)


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


def load(run_id: str, *, weights: Which | None = None, output: str = "rayloom-runs") -> Trained:
    """Return what a run has learnt, ready to act, predict and sample; see `rayloom.launch.trained.Trained`.

    `weights` are "best", "last" or a number of updates; None: the best where the run kept some, else the last.
    """
    from rayloom.launch.trained import load as load_trained

    return load_trained(run_id, weights=weights, output=output)


def evaluate(run_id: str, *overrides: str, weights: Which | None = None, output: str = "rayloom-runs") -> Evaluated:
    """Evaluate a run's weights anew, as "evaluate.split=test" says; see `rayloom.launch.trained.evaluate`."""
    from rayloom.launch.trained import evaluate as evaluate_trained

    return evaluate_trained(run_id, *overrides, weights=weights, output=output)


def sample(
    run_id: str,
    *,
    weights: Which | None = None,
    output: str = "rayloom-runs",
    count: int = 64,
    destination: str | Path,
    options: Mapping[str, Any] | None = None,
) -> Written:
    """Write samples, or frames of an episode, to an image file; see `rayloom.launch.trained.sample`."""
    from rayloom.launch.trained import sample as sample_trained

    return sample_trained(run_id, weights=weights, output=output, count=count, destination=destination, options=options)


def export(
    run_id: str, *, weights: Which | None = None, output: str = "rayloom-runs", destination: str | Path
) -> Written:
    """Write a run's module to deploy as a .pt2 or .onnx file; see `rayloom.launch.trained.export`."""
    from rayloom.launch.trained import export as export_trained

    return export_trained(run_id, weights=weights, output=output, destination=destination)


def predict(
    run_id: str,
    files: Sequence[str | Path],
    *,
    weights: Which | None = None,
    output: str = "rayloom-runs",
    destination: str | Path,
) -> Written:
    """Write a table of what a run predicts of files without labels; see `rayloom.launch.trained.predict`."""
    from rayloom.launch.trained import predict as predict_with

    return predict_with(run_id, files, weights=weights, output=output, destination=destination)
