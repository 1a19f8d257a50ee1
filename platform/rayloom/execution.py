"""One run from its config to its result: preflight, folder, tracker, loop, and a true status whatever happens."""

from __future__ import annotations

import contextlib
import signal
import threading
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from rayloom.checkpoint import CheckpointStore, Loaded
from rayloom.config import RunConfig, apply_overrides, from_tree, load
from rayloom.contract import UserError
from rayloom.folders import (
    find_run_folder,
    forget_result,
    is_running,
    load_run_config,
    make_run_folder,
    read_result,
    write_result,
)
from rayloom.loop import Loop, Role
from rayloom.observer import Observer, Result
from rayloom.plan import Plan, check_machine, make_plan
from rayloom.roles import LearnerRole
from rayloom.tracking import Tracker, git_state, resolve_uri

_PATIENCE_S = 60.0  # wait for a tracking server that answers
_IMPATIENCE_S = 5.0  # and for one that does not: the writer goes on without us


class Terminated(BaseException):
    """SIGTERM arrived: the run ends like after Ctrl-C."""


def as_config(config: RunConfig | str | Mapping[str, Any], overrides: tuple[str, ...] = ()) -> RunConfig:
    """Return a typed config from a typed one, a file or shipped name, or a tree."""
    if isinstance(config, RunConfig):
        return from_tree(apply_overrides(config.to_tree(), overrides)) if overrides else config
    if isinstance(config, str):
        return load(config, overrides)
    return from_tree(apply_overrides({"name": "run", **config}, overrides))


def run(
    config: RunConfig | str | Mapping[str, Any],
    *overrides: str,
    local: bool = False,
    observer: Observer | None = None,
) -> Result:
    """Train one config to its end and return the result.

    `config` is a file, a shipped name, a tree or a RunConfig; `overrides` have the form "learner.batch_size=64";
    `local` keeps every role in this process. Raises UserError for mistakes in the config, before any work; an
    exception of an algorithm or environment passes through with its own traceback, after the run was marked FAILED.
    """
    typed = as_config(config, overrides)
    plan = make_plan(typed, local)
    check_machine(plan, typed)
    uri = resolve_uri(typed.tracking.uri, Path(typed.output))
    typed = replace(typed, tracking=replace(typed.tracking, uri=uri))
    role = make_role(typed, plan)
    try:
        folder = make_run_folder(typed)
        return _train(typed, plan, role, folder, observer or Observer(), None)
    finally:
        role.close()


def resume(run_id: str, *, output: str = "rayloom-runs", observer: Observer | None = None) -> Result:
    """Continue an interrupted run from its newest intact checkpoint, exactly as if it had not been interrupted."""
    observer = observer or Observer()
    folder = find_run_folder(Path(output).absolute(), run_id)
    result = read_result(folder)
    if result and result["status"] == "FINISHED":
        raise UserError(f"the run {run_id} has finished ({result['stopped_by']}); start a new one with a larger stop")
    if not result and is_running(folder):
        raise UserError(f"the run {run_id} is still running; wait for it or stop it first")
    config = load_run_config(folder)
    plan = make_plan(config, _was_local(folder))
    check_machine(plan, config)
    loaded = _checkpoints(config, folder).load_latest()
    for note in loaded.notes if loaded else []:
        observer.note(note)
    if loaded is None:
        observer.note("the run had no checkpoint yet: it starts from its beginning")
    role = make_role(config, plan)
    try:
        return _train(config, plan, role, folder, observer, loaded, resumed=True)
    finally:
        role.close()


def make_role(config: RunConfig, plan: Plan) -> Role:
    """Return the learner's role, here or as an actor, with its workers."""
    if not plan.uses_ray:
        return LearnerRole(config)
    from rayloom.cluster.ray_backend import make_ray_role

    return make_ray_role(config, plan)


def _checkpoints(config: RunConfig, folder: Path) -> CheckpointStore:
    return CheckpointStore(folder / "checkpoints", config.checkpoint.keep, config.checkpoint.mode)


def _was_local(folder: Path) -> bool:
    return (folder / "local").exists()


def _train(
    config: RunConfig,
    plan: Plan,
    role: Role,
    folder: Path,
    observer: Observer,
    loaded: Loaded | None,
    resumed: bool = False,
) -> Result:
    if not plan.uses_ray:
        (folder / "local").touch()
    forget_result(folder)
    observer.started(config, plan, folder)
    tracker = _start_tracker(config, plan, role, folder, resumed)
    loop = Loop(config, role, tracker, _checkpoints(config, folder), observer)
    try:
        with _sigterm_raises():
            if loaded is not None:
                loop.restore(loaded.state)
            stopped_by = loop.run()
        result = Result(
            run_id="",
            status="FINISHED",
            metrics=loop.metrics,
            counters=role.counters(),
            weights_sha256=role.weights_sha256(),
            run_dir=folder,
            tracking_uri=config.tracking.uri or "",
            stopped_by=stopped_by,
        )
    except (KeyboardInterrupt, Terminated):
        _end(tracker, folder, "KILLED", "interrupted", observer)
        raise
    except BaseException:
        _end(tracker, folder, "FAILED", "an exception", observer, traceback.format_exc())
        raise
    return _finish(result, config, tracker, loop, observer)


def _finish(result: Result, config: RunConfig, tracker: Tracker, loop: Loop, observer: Observer) -> Result:
    tracker.set_tags({"rayloom.weights_sha256": result.weights_sha256, "rayloom.stopped_by": result.stopped_by})
    tracker.log_model(result.run_dir, wait=config.tracking.wait_for_model)
    delivered = tracker.finish("FINISHED", timeout_s=_PATIENCE_S if tracker.problem is None else _IMPATIENCE_S)
    result = replace(result, run_id=tracker.run_id or result.run_dir.name)
    write_result(
        result.run_dir,
        {
            "status": "FINISHED",
            "stopped_by": result.stopped_by,
            "counters": result.counters,
            "metrics": {name: repr(value) for name, value in result.metrics.items()},
            "weights_sha256": result.weights_sha256,
        },
    )
    if not delivered and config.tracking.enabled:
        problem = tracker.problem or "it is slow"
        observer.note(f"the tracking server has not taken everything yet ({problem}): the rest is sent later")
    if not loop.announced:
        observer.run_id(result.run_id)
    observer.finished(result)
    return result


def _end(
    tracker: Tracker, folder: Path, status: str, reason: str, observer: Observer, failure: str | None = None
) -> None:
    """Record how the run ended; a full disk must not hide the exception that is on its way to the user."""
    try:
        if failure is not None:
            tracker.log_text("traceback.txt", failure)
        tracker.finish(status, timeout_s=_PATIENCE_S if tracker.problem is None else _IMPATIENCE_S)
        write_result(folder, {"status": status, "stopped_by": reason})
    except (UserError, OSError) as error:
        observer.note(f"the end of the run could not be recorded: {error}")


def _start_tracker(config: RunConfig, plan: Plan, role: Role, folder: Path, resumed: bool) -> Tracker:
    family = config.algorithm_path.split(".")[0]
    state = git_state(Path.cwd())
    tags = {"rayloom.folder": str(folder), "rayloom.algorithm": config.algorithm_path, "rayloom.family": family}
    tracker = Tracker.start(
        folder,
        uri=config.tracking.uri or "",
        experiment=config.tracking.experiment or family,
        run_name=config.name,
        params=flatten(config.to_tree()),
        tags={**tags, **(state.tags() if state else {})},
        resume=resumed,
        enabled=config.tracking.enabled,
        system_metrics=config.tracking.system_metrics,
    )
    if not resumed:
        tracker.log_text("config.yaml", config.to_yaml())
        counts = "\n".join(f"{name}: {count:,}" for name, count in role.parameter_counts().items())
        tracker.log_text("plan.txt", f"{plan.describe()}\n\ntrained parameters\n{counts}\n")
        if state and state.diff:
            tracker.log_text("diff.patch", state.diff)
    return tracker


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return {"learner.batch_size": 128, ...} from a nested tree."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{name}."))
        else:
            flat[name] = value
    return flat


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Turn SIGTERM into an exception in the main thread; elsewhere signals are the caller's business."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def describe(config: RunConfig, local: bool = False) -> str:
    """Return the resolved config, the plan, parameter counts and the preflight's verdict."""
    plan = make_plan(config, local)
    check_machine(plan, config)
    resolve_uri(config.tracking.uri, Path(config.output))
    role = LearnerRole(config)
    try:
        counts = role.parameter_counts()
    finally:
        role.close()
    rows = "\n".join(f"{name:<20} {count:>12,}" for name, count in counts.items())
    ray = "starts Ray" if plan.uses_ray else "one process, no Ray"
    return (
        f"{config.to_yaml()}\n# plan ({ray})\n{plan.describe()}\n\n# trained parameters\n{rows}\n\n"
        f"# preflight\nthis machine can run it"
    )


def evaluate(
    run_id: str, *, output: str = "rayloom-runs", split: str | None = None, episodes: int | None = None
) -> dict[str, float]:
    """Evaluate the last weights of a run and return the metrics."""
    with trained_role(run_id, output) as role:
        return role.evaluate(split, episodes).metrics


@contextlib.contextmanager
def trained_role(run_id: str, output: str) -> Iterator[LearnerRole]:
    """Yield the run's role in this process with its last weights."""
    folder = find_run_folder(Path(output).absolute(), run_id)
    config = load_run_config(folder)
    loaded = _checkpoints(config, folder).load_latest()
    if loaded is None:
        raise UserError(f"the run {run_id} has no checkpoint yet")
    role = LearnerRole(config)
    try:
        role.learner.load_state_dict(loaded.state["role"]["learner"])
        yield role
    finally:
        role.close()


def sample(run_id: str, *, output: str = "rayloom-runs", count: int = 64, destination: Path) -> Path:
    """Write samples of a generative model, or frames of an agent's episode (a .gif shows all), and return the file."""
    from rayloom.showing import sample_picture

    with trained_role(run_id, output) as role:
        return sample_picture(role, count, destination)
