"""Several configs as the stages of one pipeline: what a later stage takes from other runs may be an earlier stage.

    stages:
      supervised: {config: supervised_policy_go5x5}
      reinforced:
        config: reinforce_self_play_go5x5
        settings: {start_from: {run: "stage:supervised", include: ["network.*"]}}

Every stage is a job (`rayloom.runs.jobs`), so that the same call goes on where an earlier one was interrupted. MLflow
shows one parent run with the stages below it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rayloom.config.load import apply_overrides, find_config, from_tree, read_mapping, read_tree
from rayloom.config.names import output_folder
from rayloom.config.schema import RunConfig, flatten
from rayloom.config.validation import merge
from rayloom.errors import UserError
from rayloom.launch.run import run
from rayloom.redaction import redacted_tree
from rayloom.runs.jobs import OF_THE_PLACE, job_folder
from rayloom.runs.observer import Observer, Result
from rayloom.tracking.journal import last_start
from rayloom.tracking.location import resolve_experiment, resolve_uri
from rayloom.tracking.tracker import Tracker

STAGE = "stage:"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_]{0,39}")
_KEYS = {"config", "settings"}
_PATIENCE_S = 60.0


@dataclass(frozen=True)
class PipelineResult:
    """What the stages of a pipeline returned."""

    job: str
    """What its runs have in common: the value of their tag `rayloom.group`."""
    run_id: str
    """MLflow's id of the parent, or its folder's name."""
    folder: Path
    """The parent's."""
    stages: dict[str, Result]
    """By name, in their order."""


def run_pipeline(
    file: str,
    *overrides: str,
    local: bool = False,
    job: str | None = None,
    observe: Callable[[str], Observer] | None = None,
) -> PipelineResult:
    """Train the stages of a pipeline one after the other.

    `file` is a YAML file or the name of a shipped pipeline. An override that begins with a stage's name and a dot goes
    to that stage ("reinforced.stop.updates=100"), any other one to all ("output=runs"). `job` is the id under which the
    same call goes on (default: the file's name and a hash of what it says). `observe` makes the observer of a stage's
    run. UserError for mistakes in any stage, before the first one begins.
    """
    path = find_config(file)
    trees = _stage_trees(path, overrides)
    plain = _typed(trees, {name: name for name in trees})
    job = job or _job(path.stem, plain)
    first = next(iter(plain.values()))
    output = output_folder(first.output)
    runs = {name: job_folder(output, f"{job}-{name}").name for name in trees}
    stages = _typed(trees, runs)
    folder = job_folder(output, job)
    tracker = _start_parent(folder, path, first, stages)
    results: dict[str, Result] = {}
    ended = "KILLED"
    try:
        parent = tracker.wait_run_id(_PATIENCE_S)
        for number, (name, config) in enumerate(stages.items(), start=1):
            observer = observe(name) if observe else None
            results[name] = run(config, local=local, observer=observer, job=f"{job}-{name}", group=job, parent=parent)
            tracker.set_tags({f"rayloom.stage.{name}": results[name].run_id})
            tracker.log_metrics({f"{name}/{key}": value for key, value in results[name].metrics.items()}, number)
        ended = "FINISHED"
    except Exception:
        ended = "FAILED"
        raise
    finally:
        tracker.finish(ended, timeout_s=_PATIENCE_S if tracker.problem is None else 5.0)
    return PipelineResult(job, tracker.run_id or folder.name, folder, results)


def pipeline_job(file: str, *overrides: str) -> str:
    """Return the id under which the same call of `run_pipeline` goes on; UserError for mistakes in any stage."""
    path = find_config(file)
    trees = _stage_trees(path, overrides)
    return _job(path.stem, _typed(trees, {name: name for name in trees}))


def _stage_trees(path: Path, overrides: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the config of every stage as a tree, with references to other stages still in it."""
    whole = read_mapping(path)
    stages = whole.get("stages")
    if set(whole) != {"stages"} or not isinstance(stages, dict) or not stages:
        raise UserError(f"{path} is no pipeline: write a mapping stages of names to config and settings, nothing else")
    trees = {}
    for name, stage in stages.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UserError(f"stages: {name!r} is no name; write letters, digits and underscores, at most 40")
        if not isinstance(stage, dict) or not isinstance(stage.get("config"), str) or set(stage) - _KEYS:
            raise UserError(f"stages.{name}: write config (a file or a shipped name) and, if need be, settings")
        if not isinstance(settings := stage.get("settings", {}), dict):
            raise UserError(f"stages.{name}.settings: write a mapping of what is other than in the config")
        beside = path.parent / stage["config"]
        found = beside if beside.is_file() else find_config(stage["config"])
        tree = merge({"name": name, **read_tree(found)}, settings)
        own = [word.removeprefix(f"{name}.") for word in overrides if word.startswith(f"{name}.")]
        others = [word for word in overrides if word.split(".")[0].split("=")[0] not in stages]
        try:
            trees[name] = apply_overrides(tree, [*others, *own])
        except UserError as error:
            raise UserError(f"stages.{name}: {error}") from None
        for reference in _references(trees[name]):
            if reference not in trees or reference == name:
                known = ", ".join(other for other in trees if other != name) or "none"
                raise UserError(f"stages.{name}: there is no earlier stage {reference!r} (earlier ones: {known})")
    return trees


def _typed(trees: Mapping[str, Mapping[str, Any]], runs: Mapping[str, str]) -> dict[str, RunConfig]:
    """Return the typed configs of all stages, with `runs` in place of references."""
    found = {}
    for name, tree in trees.items():
        try:
            found[name] = from_tree(_resolved(tree, runs))
        except UserError as error:
            raise UserError(f"stages.{name}: {error}") from None
    return found


def _references(tree: Any) -> list[str]:
    """Return the names of all stages that a tree refers to."""
    if isinstance(tree, Mapping):
        return [name for value in tree.values() for name in _references(value)]
    if isinstance(tree, str) and tree.startswith(STAGE):
        return [tree.removeprefix(STAGE)]
    return []


def _resolved(tree: Any, runs: Mapping[str, str]) -> Any:
    """Return a tree with every reference to a stage replaced by the name of its run."""
    if isinstance(tree, Mapping):
        return {key: _resolved(value, runs) for key, value in tree.items()}
    if isinstance(tree, str) and tree.startswith(STAGE):
        return runs[tree.removeprefix(STAGE)]
    return tree


def _job(name: str, stages: Mapping[str, RunConfig]) -> str:
    """Return the id of the same stages, wherever they take place."""
    settings = {
        f"{stage}.{key}": value
        for stage, config in stages.items()
        for key, value in flatten(redacted_tree(config.to_tree())).items()
        if key not in OF_THE_PLACE
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()
    return f"{re.sub(r'[^A-Za-z0-9_]+', '-', name).strip('-')[:40] or 'pipeline'}-{digest[:8]}"


def _start_parent(folder: Path, path: Path, first: RunConfig, stages: Mapping[str, RunConfig]) -> Tracker:
    """Open the journal of the parent, or go on with it."""
    uri = resolve_uri(first.tracking.uri, Path(first.output), first.tracking.enabled)
    tracking = replace(first.tracking, uri=uri, experiment=resolve_experiment(first.tracking.experiment))
    resumed = folder.is_dir() and last_start(folder) is not None
    tracker = Tracker.start(
        folder,
        uri=tracking.uri or "",
        experiment=tracking.experiment or first.algorithm_path.split(".")[0],
        run_name=folder.name.removeprefix("job-"),
        params={name: config.algorithm_path for name, config in stages.items()},
        tags={"rayloom.kind": "pipeline", "rayloom.folder": str(folder)},
        resume=resumed,
        enabled=tracking.enabled,
        system_metrics=False,
        pictures=False,
    )
    if not resumed:
        tracker.log_text("pipeline.yaml", path.read_text(encoding="utf-8"))
    return tracker
