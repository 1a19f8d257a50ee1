"""One run from its config to its result: preflight, folder, tracker, loop, and a true status whatever happens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rayloom.checkpoint.store import Loaded
from rayloom.config.load import apply_overrides, from_tree, load
from rayloom.config.names import output_folder
from rayloom.config.schema import RunConfig
from rayloom.errors import UserError
from rayloom.launch.chaos import Chaos, check_plan
from rayloom.launch.roles import make_role
from rayloom.runs.compiling import settled
from rayloom.runs.folders import (
    LOCAL_MARK,
    RUN,
    find_run_folder,
    is_running,
    load_run_config,
    make_run_folder,
    read_result,
    write_config,
)
from rayloom.runs.inputs import inputs_for, keep_inputs, read_inputs
from rayloom.runs.jobs import attempt, earlier_result, held
from rayloom.runs.learner_role import LearnerRole
from rayloom.runs.loop import Role
from rayloom.runs.objectives import read_objectives
from rayloom.runs.observer import Observer, Result
from rayloom.runs.passwords import given_passwords, with_passwords
from rayloom.runs.plan import Plan, check_machine, cluster_address, make_plan
from rayloom.runs.sameness import changed_by
from rayloom.runs.schedule import Schedule
from rayloom.runs.session import Session
from rayloom.runs.weights import checkpoint_store
from rayloom.signals import Terminated, sigterm_raises
from rayloom.tracking.location import resolve_experiment, resolve_uri
from rayloom.tracking.provenance import is_uploaded


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
    job: str | None = None,
    chaos: str | None = None,
    group: str | None = None,
    parent: str | None = None,
) -> Result:
    """Train one config to its end and return the result.

    `config` is a file, a shipped name, a tree or a RunConfig; `overrides` have the form "learner.batch_size=64";
    `local` keeps every role in this process. `job` is the id of a job that its cluster may start several times: the
    same id goes on with the same run, or returns its result again once it has finished. `chaos` injects faults, as
    "rollout=6/min,learner=1" (see `rayloom.launch.chaos`); a run that is continued has none. `group` is a tag of a
    job's run, for what several have in common (see `rayloom.launch.seeds`), and `parent` MLflow's id of the run below
    which the tracker shows it (see `rayloom.launch.pipeline`). Raises UserError for
    mistakes in the config, before any work; an exception of an algorithm or environment passes through with its own
    traceback, after the run was marked FAILED.
    """
    typed = as_config(config, overrides)
    plan = make_plan(typed, local)
    check_machine(plan, typed)
    striker = Chaos(chaos, typed.seed) if chaos is not None else None
    if striker is not None:
        check_plan(striker.faults, typed, plan, local)
    uri = resolve_uri(typed.tracking.uri, Path(typed.output), typed.tracking.enabled)
    experiment = resolve_experiment(typed.tracking.experiment)
    typed = replace(typed, tracking=replace(typed.tracking, uri=uri, experiment=experiment))
    observer = observer or Observer()
    if is_uploaded(Path.cwd()) and not Path(typed.output).is_absolute():
        observer.note(f"output: {typed.output} goes with this node; name a folder that all nodes share, as /mnt/runs")
    if job is not None:
        return _run_job(typed, plan, job, observer, striker, group, parent)
    typed = settled(typed)
    role = make_role(typed, plan)
    try:
        read_objectives(typed, role.parameter_counts())
        if striker is not None:
            striker.check_nodes(role)
        inputs = read_inputs(typed)
        if inputs:
            role.start_from(inputs)  # what does not fit is told before there is a folder
        folder = make_run_folder(typed)
        keep_inputs(folder, inputs)
        return _train(typed, plan, role, folder, observer, None, chaos=striker)
    finally:
        role.close()


def _run_job(
    config: RunConfig,
    plan: Plan,
    job: str,
    observer: Observer,
    chaos: Chaos | None,
    group: str | None,
    parent: str | None,
) -> Result:
    """Begin the run of a job, go on with it, or report it again."""
    with attempt(config, job, observer.note, uses_ray=plan.uses_ray, group=group, parent=parent) as taken:
        config = taken.config
        if taken.ended is not None:
            result = earlier_result(config, taken.folder, taken.ended)
            observer.note(f"job {job} has finished its run before: this is its result")
            observer.finished(result)
            return result
        if taken.begun:
            observer.note(f"job {job} goes on with its run in {taken.folder}")
            return _continue(config, plan, taken.folder, observer)
        role = make_role(config, plan)
        try:
            read_objectives(config, role.parameter_counts())
            if chaos is not None:
                chaos.check_nodes(role)
            inputs = inputs_for(config, taken.folder)
            if inputs:
                role.start_from(inputs)
            return _train(config, plan, role, taken.folder, observer, None, chaos=chaos)
        finally:
            role.close()


def resume(run_id: str, *overrides: str, output: str = "rayloom-runs", observer: Observer | None = None) -> Result:
    """Continue an interrupted run from its newest intact checkpoint, exactly as if it had not been interrupted.

    `overrides` may change how far it goes ("stop.epochs=20", also of a run that has finished), how it is judged and
    saved, and where its processes are ("learner.device=cpu"), but nothing else that it learns from. A URL that
    was recorded without its password is given again ("tracking.uri=http://me:PASSWORD@host"), unless
    MLFLOW_TRACKING_URI has it.
    """
    observer = observer or Observer()
    folder = find_run_folder(output_folder(output), run_id)
    if not read_result(folder) and is_running(folder):
        raise UserError(f"the run {run_id} is still running; wait for it or stop it first")
    with held(folder, observer.note):
        result = read_result(folder)
        config, others = given_passwords(load_run_config(folder), overrides)
        config, changes = changed_by(config, others)
        if result and result["status"] == "FINISHED":
            _check_goes_on(config, folder, result["stopped_by"])
        config = with_passwords(config)
        plan = make_plan(config, _was_local(folder))
        check_machine(plan, config)
        return _continue(config, plan, folder, observer, changes)


def _check_goes_on(config: RunConfig, folder: Path, stopped_by: str) -> None:
    """Raise UserError when a run that has finished has nothing left to do under its config."""
    loaded = checkpoint_store(config, folder).load_latest()
    if loaded is None:
        return
    exhausted = Schedule({}, config.budget()).exhausted(loaded.metadata["counters"])
    ends = exhausted or read_objectives(config).reached(loaded.state["evaluated"])
    if ends:
        raise UserError(
            f"the run {folder.name} has finished ({stopped_by}); to go on, give it another limit than {ends}, "
            f"as in rayloom resume {folder.name} stop.{ends.split()[0]}=LIMIT"
        )


def _continue(config: RunConfig, plan: Plan, folder: Path, observer: Observer, changes: Sequence[str] = ()) -> Result:
    """Train from the newest intact checkpoint, or from the beginning where there is none yet."""
    loaded = checkpoint_store(config, folder).load_latest()
    for note in [*(loaded.notes if loaded else []), *changes]:
        observer.note(note)
    if loaded is None:
        observer.note("the run had no checkpoint yet: it starts from its beginning")
    role = make_role(config, plan, resumed=True, begins=loaded is None)
    try:
        read_objectives(config, role.parameter_counts())
        return _train(config, plan, role, folder, observer, loaded, resumed=True, changed=bool(changes))
    finally:
        role.close()


def _was_local(folder: Path) -> bool:
    return (folder / LOCAL_MARK).exists()


def _train(
    config: RunConfig,
    plan: Plan,
    role: Role,
    folder: Path,
    observer: Observer,
    loaded: Loaded | None,
    resumed: bool = False,
    chaos: Chaos | None = None,
    changed: bool = False,
) -> Result:
    session = Session(config, plan, role, folder, observer, resumed=resumed, chaos=chaos, loaded=loaded)
    try:
        if changed:
            write_config(folder / RUN, config)
        with sigterm_raises():
            if loaded is not None:
                session.restore(loaded)
            elif resumed:
                session.begin()
            result = session.train()
    except (KeyboardInterrupt, Terminated):
        session.end("KILLED", "interrupted")
        raise
    except BaseException:
        session.end("FAILED", "an exception")
        raise
    return session.finish(result)


def describe(config: RunConfig, local: bool = False, changed: bool = False) -> str:
    """Return the resolved config, the plan, parameter counts and this machine's verdict; `survey` asks the cluster.

    `changed` leaves out of the config what is as the defaults have it.
    """
    plan = make_plan(config, local)
    check_machine(plan, config)
    resolve_uri(config.tracking.uri, Path(config.output), config.tracking.enabled)
    # The device of the run may be another machine's.
    role = LearnerRole(replace(config, learner=replace(config.learner, device="cpu")))
    try:
        counts = role.parameter_counts()
        read_objectives(config, counts)
    finally:
        role.close()
    rows = "\n".join(f"{name:<20} {count:>12,}" for name, count in counts.items())
    ray = "starts Ray" if plan.uses_ray else "one process, no Ray"
    verdict = "" if _on_cluster(config, plan) else "\n\n# preflight\nthis machine can run it"
    return f"{config.to_yaml(changed)}\n# plan ({ray})\n{plan.describe()}\n\n# trained parameters\n{rows}{verdict}"


def _on_cluster(config: RunConfig, plan: Plan) -> bool:
    return plan.uses_ray and cluster_address(config) is not None


def survey_cluster(config: RunConfig, local: bool = False) -> tuple[str, str | None] | None:
    """Return the cluster's nodes and who would go where, and what is missing there; None for a run without cluster."""
    plan = make_plan(config, local)
    if not _on_cluster(config, plan):
        return None
    from rayloom.cluster.nodes.survey import survey

    return survey(config, plan)
