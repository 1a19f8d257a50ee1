"""`rayloom search`: a study from its config to its result, and its continuation after any interruption."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rayloom.config.load import apply_overrides, from_tree
from rayloom.config.names import output_folder
from rayloom.config.schema import Interval, RunConfig
from rayloom.config.search import Direction, SearchConfig
from rayloom.errors import UserError
from rayloom.files import replace_file
from rayloom.launch.roles import make_role
from rayloom.launch.run import as_config
from rayloom.redaction import redacted_url
from rayloom.runs.compiling import settled
from rayloom.runs.folders import (
    LOCAL_MARK,
    STUDY,
    find_study_folder,
    forget_result,
    is_running,
    load_run_config,
    make_run_folder,
    mark_local,
    read_result,
    write_config,
    write_result,
)
from rayloom.runs.jobs import attempt, held, known_id
from rayloom.runs.objectives import study_directions
from rayloom.runs.passwords import whole_storage, with_passwords
from rayloom.runs.plan import check_machine, cluster_address, make_plan
from rayloom.runs.record import start_tracker
from rayloom.search.domains import Categorical, Leaf
from rayloom.search.driver import BEST, Driver, best_config
from rayloom.search.ledger import Ledger, open_storage
from rayloom.search.observer import StudyObserver, StudyResult
from rayloom.search.population import check_population
from rayloom.search.space import Space, apply
from rayloom.search.study_plan import Study
from rayloom.search.trials import LocalTrialPool, TrialPool
from rayloom.signals import Terminated, sigterm_raises
from rayloom.tracking.journal import JOURNAL
from rayloom.tracking.location import resolve_experiment, resolve_uri
from rayloom.tracking.tracker import Tracker

_PATIENCE_S = 120.0
_PAUSE_S = 2.0
_WITH_PASSWORDS = ("search.storage", "tracking.uri")
_EXTENDABLE = ("search.trials", "search.parallel", "search.max_failures")


def run_study(
    config: RunConfig | str | Mapping[str, Any],
    *overrides: str,
    local: bool = False,
    observer: StudyObserver | None = None,
    job: str | None = None,
) -> StudyResult:
    """Search the space of a config's `search` part and return what was found.

    `config`, `overrides` and `job` are those of `rayloom.run`; `local` runs one trial after the other in this process.
    Raises UserError for mistakes in the config before the first trial. A trial that fails is recorded and does not stop
    the study until more than `search.max_failures` have.
    """
    typed = as_config(config, overrides)
    study, space = _prepare(typed, local)
    observer = observer or StudyObserver()
    if job is None:
        study = replace(study, config=settled(study.config))
        return _begin(replace(study, folder=make_run_folder(study.config, STUDY)), space, observer)
    with attempt(study.config, job, observer.note, uses_ray=not local, file=STUDY, changeable=_EXTENDABLE) as taken:
        study = replace(study, config=taken.config, folder=taken.folder)
        if taken.ended is not None:
            result = _earlier_result(study, taken.ended)
            observer.note(f"job {job} has finished its study before: this is its result")
            observer.study_id(result.study_id)
            observer.finished(result)
            return result
        if taken.begun:
            observer.note(f"job {job} goes on with its study in {taken.folder}")
            return _drive(study, space, observer, resumed=True)
        return _begin(study, space, observer)


def _begin(study: Study, space: Space, observer: StudyObserver) -> StudyResult:
    if study.local:
        mark_local(study.folder)
    return _drive(study, space, observer, resumed=False)


def resume_study(
    study_id: str, *overrides: str, output: str = "rayloom-runs", observer: StudyObserver | None = None
) -> StudyResult:
    """Continue an interrupted study: finished trials stay, running ones go on from their checkpoints.

    `overrides` may change search.trials, search.parallel and search.max_failures, also of a study that has finished;
    those of `search.storage` and `tracking.uri` give the passwords again that were recorded with neither, unless the
    variables RAYLOOM_SEARCH_STORAGE and MLFLOW_TRACKING_URI have them.
    """
    observer = observer or StudyObserver()
    folder = find_study_folder(output_folder(output), study_id)
    secrets = [override for override in overrides if override.partition("=")[0] in _WITH_PASSWORDS]
    overrides = tuple(override for override in overrides if override not in secrets)
    for override in overrides:
        if override.partition("=")[0] not in _EXTENDABLE:
            raise UserError(f"{override.partition('=')[0]}: a study that goes on can change {', '.join(_EXTENDABLE)}")
    config = with_passwords(load_run_config(folder, STUDY), secrets)
    if overrides:
        config = from_tree(apply_overrides(config.to_tree(), overrides))
    if not read_result(folder) and is_running(folder):
        raise UserError(f"the study {study_id} is still running; wait for it or stop it first")
    with held(folder, observer.note):
        result = read_result(folder)
        if result and result["status"] == "FINISHED" and not overrides:
            raise UserError(f"the study {study_id} has finished; to extend it, add search.trials with a larger number")
        study, space = _prepare(config, (folder / LOCAL_MARK).exists())
        if overrides:
            write_config(folder / STUDY, study.config)
        return _drive(replace(study, folder=folder), space, observer, resumed=True)


def describe_study(config: RunConfig, local: bool = False) -> str:
    """Return what `rayloom search` would do with a config, after the checks that it would make."""
    study, space = _prepare(config, local)
    goals = ", ".join(f"{d} {name}" for d, name in zip(study.directions, study.metrics, strict=True))
    settings = study.settings
    rows = "\n".join(
        f"{leaf.name:<36} {_describe_leaf(leaf, getattr(entry.domain, 'transform', None))}"
        for entry in space.entries
        for leaf in entry.domain.leaves(entry.key)
    )
    together = f", {settings.population} train as one" if settings.population > 1 else ""
    return f"# search\n{goals}; {study.total} trials by {settings.sampler}, pruner {settings.pruner}{together}\n{rows}"


def _describe_leaf(leaf: Leaf, transform: str | None) -> str:
    if isinstance(leaf, Categorical):
        return ", ".join(str(choice) for choice in leaf.choices)
    step = f", step {leaf.step:g}" if leaf.step else ""
    more = f", {transform}" if transform else ""
    return f"{leaf.kind} {leaf.low:g} to {leaf.high:g}{' (log)' if leaf.log else ''}{step}{more}"


def check_study(config: RunConfig) -> None:
    """Check a study whose trials other machines will train; UserError for mistakes in its config."""
    _read(config, False)


def _prepare(config: RunConfig, local: bool) -> tuple[Study, Space]:
    """Check everything that can be checked before the first trial."""
    uri = resolve_uri(config.tracking.uri, Path(config.output), config.tracking.enabled)
    experiment = resolve_experiment(config.tracking.experiment)
    config = replace(config, tracking=replace(config.tracking, uri=uri, experiment=experiment))
    if config.search is not None and config.search.storage is not None:
        config = replace(config, search=replace(config.search, storage=whole_storage(config.search.storage)))
    found = _read(config, local)
    if local or cluster_address(config) is None:  # trials are actors: a cluster's head may have no GPU
        check_machine(make_plan(config, local), config)
    return found


def _read(config: RunConfig, local: bool) -> tuple[Study, Space]:
    settings = config.search
    if settings is None:
        raise UserError("search: the config needs a mapping here, with a space at least (see the README)")
    space = Space.parse(settings.space)
    space.check_sampler(settings)
    space.check(config)
    metrics = _metrics(config, settings)
    directions = _directions(config, settings, metrics)
    if settings.pruner != "none" and config.evaluate.settings.every is None:
        raise UserError("evaluate.every: a pruner judges evaluations on the way; set it to a fraction of the budget")
    if settings.value == "best" and len(metrics) > 1:
        raise UserError("search.value: the best evaluation is of one metric; set it to last for several")
    if settings.population > 1:
        sample = from_tree(apply(config, {}))
        check_population([sample, sample])
    if settings.sampler == "grid":
        points = len(space.grid())
        total = min(points, settings.trials or points)
    else:
        total = settings.trials or 0
    return Study(config, settings, metrics, directions, total, Path(), local), space


def _metrics(config: RunConfig, settings: SearchConfig) -> tuple[str, ...]:
    if isinstance(settings.metric, str):
        return (settings.metric,)
    if settings.metric:
        return tuple(settings.metric)
    stops = [name for name in config.stop if "/" in name]
    if not stops:
        raise UserError("search.metric: name the metric to optimise, as evaluate/return_mean")
    return (stops[0],)


def _directions(config: RunConfig, settings: SearchConfig, metrics: tuple[str, ...]) -> tuple[str, ...]:
    if settings.direction is None:
        return study_directions(config, metrics, None)
    given: tuple[Direction, ...] = (
        (settings.direction,) if isinstance(settings.direction, str) else tuple(settings.direction)
    )
    if len(given) != len(metrics):
        raise UserError(f"search.direction: give {len(metrics)}, one for each metric, not {len(given)}")
    return study_directions(config, metrics, given)


def _evaluations(config: RunConfig) -> int:
    """Return how many evaluations a trial has that runs to its end, as far as its counters tell."""
    budget = config.budget()
    every = config.evaluate.settings.every
    if every is None:
        return 1
    interval = Interval.parse(str(every), "evaluate.every")
    if interval.unit in budget:
        return max(1, -(-budget[interval.unit] // interval.count))
    return 100  # the two counters cannot be compared before the run: Hyperband only needs the order of magnitude


def _make_pool(study: Study) -> TrialPool:
    if study.local:
        return LocalTrialPool(_PAUSE_S, make_role)
    from rayloom.cluster.trial_pool import RayTrialPool

    settings = study.settings
    groups = -(-study.total // settings.population)
    slots = min(groups, settings.parallel or groups)
    return RayTrialPool(study.config, slots, make_role, exact=settings.parallel is not None)


def _drive(study: Study, space: Space, observer: StudyObserver, resumed: bool) -> StudyResult:
    began = time.monotonic()
    settings, config = study.settings, study.config
    with sigterm_raises():
        storage = open_storage(settings.storage, study.folder)
        ledger = Ledger(
            settings,
            space,
            config.seed,
            name=study.folder.name,
            storage=storage,
            directions=study.directions,
            evaluations=_evaluations(config),
        )
        if ledger.entries and not resumed:  # two jobs of one name: other studies have names of their own
            raise UserError(
                f"search.storage: the database has trials of a study {study.folder.name} already: give another --job"
            )
        if resumed and not ledger.entries and any(study.folder.glob(f"trials/*/{JOURNAL}")):
            raise UserError("search.storage: the study's trials are not there any more; bring the database back")
        pool = _make_pool(study)
        try:
            tracker = _start_tracker(study, resumed)
        except BaseException:
            pool.close()
            raise
        forget_result(study.folder)
        at_once = pool.slots * settings.population
        observer.started(config, study.folder, study.total, at_once, study.metrics, study.directions)
        driver = Driver(study, ledger, pool, tracker, observer)
        try:
            driver.run()
            pool.close()
        except BaseException as error:
            pool.close(driver.decisions())
            driver.interrupted()
            stopped = isinstance(error, KeyboardInterrupt | Terminated)
            _end(study, ledger, tracker, observer, driver, "KILLED" if stopped else "FAILED", began)
            raise
        return _end(study, ledger, tracker, observer, driver, "FINISHED", began)


def _start_tracker(study: Study, resumed: bool) -> Tracker:
    recorded = (STUDY, study.config.to_yaml())
    return start_tracker(study.config, study.folder, resumed, recorded, {"rayloom.kind": "study"}, hosts=True)


def _end(
    study: Study,
    ledger: Ledger,
    tracker: Tracker,
    observer: StudyObserver,
    driver: Driver,
    status: str,
    began: float,
) -> StudyResult:
    """Record how the study ended, and tell it."""
    best, pareto, counts = ledger.best(), ledger.pareto(), ledger.counts()
    summary = {"rayloom.trials": ", ".join(f"{count} {name.lower()}" for name, count in counts.items() if count)}
    if best is not None:
        summary["rayloom.best_trial"] = str(best.number)
        replace_file(study.folder / BEST, best_config(study, best).to_yaml())
    tracker.set_tags(summary)
    delivered = tracker.finish(status, timeout_s=_PATIENCE_S if tracker.problem is None else 5.0)
    if not delivered and study.config.tracking.enabled:
        observer.note(f"MLflow has not got everything yet ({tracker.problem or 'it is slow'})")
    result = StudyResult(
        study_id=tracker.run_id or study.folder.name,
        status=status,
        best_number=best.number if best else None,
        best_values=best.values if best else None,
        best_parameters=dict(best.assignment.values) if best else {},
        best_config=study.folder / BEST if best else None,
        counts=counts,
        metrics=study.metrics,
        directions=study.directions,
        study_dir=study.folder,
        tracking_uri=redacted_url(study.config.tracking.uri or ""),
        pareto=tuple(entry.number for entry in pareto),
        duration_s=time.monotonic() - began,
    )
    write_result(
        study.folder,
        {
            "status": status,
            "counts": counts,
            "best": result.best_number,
            "best_values": None if result.best_values is None else [repr(value) for value in result.best_values],
            "best_parameters": result.best_parameters,
            "pareto": list(result.pareto),
            "duration_s": result.duration_s,
        },
    )
    if not driver.announced:
        observer.study_id(result.study_id)
    observer.finished(result)
    return result


def _earlier_result(study: Study, ended: Mapping[str, Any]) -> StudyResult:
    """Return the result of a study as the attempt that finished it did."""
    values = ended["best_values"]
    return StudyResult(
        study_id=known_id(study.config, study.folder),
        status="FINISHED",
        best_number=ended["best"],
        best_values=None if values is None else tuple(float(value) for value in values),
        best_parameters=ended["best_parameters"],
        best_config=study.folder / BEST if ended["best"] is not None else None,
        counts=ended["counts"],
        metrics=study.metrics,
        directions=study.directions,
        study_dir=study.folder,
        tracking_uri=redacted_url(study.config.tracking.uri or ""),
        pareto=tuple(ended["pareto"]),
        duration_s=ended["duration_s"],
    )
