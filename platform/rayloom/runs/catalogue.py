"""The runs in an output folder, as a person looks for one among them: read from their files alone, without torch."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayloom.config.load import read_mapping
from rayloom.config.schema import flatten
from rayloom.errors import UserError
from rayloom.runs.folders import RUN, STUDY, find_run_folder, find_study_folder, is_running, read_result
from rayloom.tracking.journal import read_binding, read_metrics

_WHERE = ("output", "name", "tracking", "cluster")
"""Parts of a config that do not shape what is learnt."""


@dataclass(frozen=True)
class PastRun:
    """A run or study of which the folder is there."""

    folder: Path
    kind: str
    """run or study."""
    status: str
    """FINISHED, FAILED, KILLED; RUNNING while its process is alive; LOST when that died without a word."""
    stopped_by: str
    """Why it ended; empty where nobody wrote it down."""
    config: Mapping[str, Any]
    """The config by dotted keys."""
    metrics: Mapping[str, float]
    """Values at the end; the newest ones of a run that has not finished."""
    counters: Mapping[str, int]
    mlflow_run: str | None

    @property
    def name(self) -> str:
        """What it is resumed by."""
        return self.folder.name


def read_past_run(folder: Path) -> PastRun:
    """Return what the files of a run or study say; UserError where its config cannot be read."""
    study = (folder / STUDY).is_file()
    path = folder / (STUDY if study else RUN)
    result = read_result(folder)
    status = result["status"] if result else "RUNNING" if is_running(folder) else "LOST"
    metrics = {name: float(value) for name, value in (result or {}).get("metrics", {}).items()}
    if not metrics:
        metrics = {key: value for _, key, value in read_metrics(folder)}
    binding = read_binding(folder)
    return PastRun(
        folder=folder,
        kind="study" if study else "run",
        status=status,
        stopped_by=(result or {}).get("stopped_by", ""),
        config=flatten(read_mapping(path)),
        metrics=metrics,
        counters=(result or {}).get("counters", {}),
        mlflow_run=binding["run_id"] if binding else None,
    )


def past_runs(output: Path) -> tuple[list[PastRun], list[str]]:
    """Return the runs and studies of an output folder by the time of their start, and a line for each unreadable one.

    Trials of studies are not among them. UserError where there is no such folder.
    """
    if not output.is_dir():
        raise UserError(f"there is no folder {output}: train first, or name the folder with --output")
    found, unreadable = [], []
    for folder in sorted(output.iterdir()):
        if (folder / RUN).is_file() or (folder / STUDY).is_file():
            try:
                found.append(read_past_run(folder))
            except (
                UserError,
                OSError,
                UnicodeDecodeError,
                LookupError,
                TypeError,
                ValueError,
                AttributeError,
            ) as error:
                unreadable.append(f"{folder.name}: {' '.join(str(error).split())[:100]}")
    return found, unreadable


def differing(runs: Sequence[PastRun]) -> dict[str, list[Any]]:
    """Return the keys of the config in which runs differ, with each run's value; None where a run has no such key."""
    keys = dict.fromkeys(key for run in runs for key in run.config if key.split(".")[0] not in _WHERE)
    rows = {key: [run.config.get(key) for run in runs] for key in keys}
    return {key: values for key, values in rows.items() if any(value != values[0] for value in values)}


@dataclass(frozen=True)
class SeedGroup:
    """Finished runs that differ in their seed, and where there are several tasks in that, alone."""

    runs: tuple[PastRun, ...]
    across: str | None = None
    """The key of the config that tells their tasks."""

    def metrics(self) -> list[str]:
        """Return the metrics of evaluations and training that any of them has."""
        names = sorted({name for run in self.runs for name in run.metrics})
        return [name for name in names if name.startswith(("evaluate/", "train/"))]

    def strata(self, metric: str) -> list[list[float]]:
        """Return the values of those runs that have the metric as a finite number, a list for each task."""
        tasks: dict[str, list[float]] = {}
        for run in self.runs:
            value = run.metrics.get(metric)
            if value is not None and math.isfinite(value):
                tasks.setdefault(str(run.config.get(self.across or "")), []).append(value)
        return list(tasks.values())


def seed_groups(runs: Sequence[PastRun], across: str | None = None) -> list[SeedGroup]:
    """Return the groups of at least two finished runs whose configs are equal but for the seed and the key `across`.

    UserError for a key that no run has.
    """
    if across is not None and not any(across in run.config for run in runs):
        raise UserError(f"--across: none of these runs has the key {across!r}; name one in which they differ")
    groups: dict[str, list[PastRun]] = {}
    for run in runs:
        if run.kind == "run" and run.status == "FINISHED":
            shaping = {
                key: value
                for key, value in run.config.items()
                if key.split(".")[0] not in _WHERE and key not in ("seed", across)
            }
            members = groups.setdefault(json.dumps(shaping, sort_keys=True, default=str), [])
            if all(run.folder != other.folder for other in members):
                members.append(run)
    return [SeedGroup(tuple(members), across) for members in groups.values() if len(members) > 1]


def find_any(output: Path, name: str) -> Path:
    """Return the folder of a run, a trial or a study by its name or MLflow id."""
    try:
        return find_study_folder(output, name)
    except UserError:
        return find_run_folder(output, name)


def remove(folder: Path) -> None:
    """Delete the folder of a run or study with its checkpoints; UserError while it runs, and for a trial of a study."""
    if is_running(folder) and read_result(folder) is None:
        raise UserError(f"{folder.name} is still running; stop it first")
    if folder.parent.name == "trials":
        raise UserError(f"{folder.name} is a trial of {folder.parent.parent.name}: a study goes as a whole")
    if folder.is_symlink():
        raise UserError(f"{folder.name} is a link to {os.readlink(folder)}, outside of this folder; remove it yourself")
    shutil.rmtree(folder)
