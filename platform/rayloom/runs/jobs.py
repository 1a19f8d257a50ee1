"""The run or study of a job: whoever starts the job again finds it, goes on with it, or reports its end once more.

A cluster starts a job again when its node died: as another process, on another machine, with the same job id. The id
leads to one folder, `OUTPUT/job-ID`; a lock on a file in it, which the operating system lets go with its holder, keeps
two attempts apart.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayloom.config.schema import RunConfig, flatten
from rayloom.errors import UserError
from rayloom.files import INTERNAL, DamagedFileError, read_record, write_json
from rayloom.redaction import redacted_tree, redacted_url
from rayloom.runs.compiling import settled
from rayloom.runs.folders import (
    LOCAL_MARK,
    RUN,
    STUDY,
    is_running,
    load_run_config,
    make_folder,
    read_result,
    write_config,
)
from rayloom.runs.observer import Result
from rayloom.tracking.claim import NO_LOCKS
from rayloom.tracking.journal import last_start, locked, read_binding, read_process

JOB = f"{INTERNAL}/job.json"
_JOB = {"job": str, "file": str, "uses_ray": bool}
_LOCK = f"{INTERNAL}/job.lock"
_LOCK_DEADLINE_S = 120.0  # a file server lets a dead machine's locks go after its lease, which is 90 s for NFS
OF_THE_PLACE = {"output", "cluster.address"}
"""Where a run takes place may change from one attempt to the next."""


@dataclass(frozen=True)
class Attempt:
    """One start of a job, which has the run's folder for itself."""

    folder: Path
    """The folder of the run or study."""
    begun: bool
    """An earlier attempt has begun it: go on with it."""
    ended: Mapping[str, Any] | None
    """How an earlier attempt has finished it (`result.json`); None while there is something left to do."""
    config: RunConfig
    """The settings, with what was left to the machine decided as in the first attempt."""


def job_folder(output: Path, job: str) -> Path:
    """Return where the run or study of a job lies; UserError for an id that is no file name."""
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?", job):
        raise UserError(
            f"--job: {job[:100]!r} is no id; write letters, digits, dots, dashes and underscores, at most 100, with a "
            f"letter or digit first and no dot last"
        )
    return output.absolute() / f"job-{job}"


def seed_job(group: str, seed: int) -> str:
    """Return the id of the job that trains one seed of a group."""
    return f"{group}-seed-{seed}"


def seed_folders(output: Path, group: str) -> list[Path]:
    """Return the folders of a group's runs by their seed; none where there is no such group."""
    numbered = {}
    for folder in output.glob("job-*-seed-*"):
        name, _, seed = folder.name.removeprefix("job-").rpartition("-seed-")
        if name == group and seed.isdecimal():
            numbered[int(seed)] = folder
    return [numbered[seed] for seed in sorted(numbered)]


def job_tag(folder: Path) -> dict[str, str]:
    """Return the tags of the job to which what lies in `folder` belongs, its group's and its parent's; or none."""
    job = read_record(folder / JOB, _JOB)
    if not job:
        return {}
    group = {"rayloom.group": job["group"]} if isinstance(job.get("group"), str) else {}
    parent = {"mlflow.parentRunId": job["parent"]} if isinstance(job.get("parent"), str) else {}
    return {"rayloom.job": job["job"], **group, **parent}


@contextlib.contextmanager
def attempt(
    config: RunConfig,
    job: str,
    note: Callable[[str], None],
    *,
    uses_ray: bool,
    file: str = RUN,
    changeable: Collection[str] = (),
    group: str | None = None,
    parent: str | None = None,
) -> Iterator[Attempt]:
    """Take the folder of the job, made where this is its first attempt, and keep other attempts out.

    `file` is RUN or, for a study, STUDY; `note` takes remarks. An attempt may have other values of the settings that
    are `changeable`, and then goes on with what had finished, too. `group` and `parent` are kept beside the id.
    UserError when another attempt is at work at the moment, or began with another config.
    """
    folder = job_folder(Path(config.output), job)
    make_folder(folder / INTERNAL)
    given_config = config
    config = _decided(given_config, folder, file)
    ended = _ended(config, folder, file, uses_ray, changeable)
    if ended is not None:
        yield Attempt(folder, True, ended, config)
        return
    if not read_result(folder) and is_running(folder):
        raise _is_running(folder, job)
    with _locked(folder, job, note):
        begun = last_start(folder) is not None
        config = _decided(given_config, folder, file)
        changed = begun and _changed_settings(config, folder, file, uses_ray, changeable)
        if not begun:
            for name in (RUN, STUDY, LOCAL_MARK):  # of an attempt that ended before it had begun anything
                (folder / name).unlink(missing_ok=True)
            given = {"group": group, "parent": parent}
            of_group = {name: value for name, value in given.items() if value is not None}
            write_json(folder / JOB, {"job": job, "file": file, "uses_ray": uses_ray, **of_group})
        if changed or not begun:
            write_config(folder / file, config)
        # Read again: the attempt that had the folder until now may have finished.
        ended = _ended(config, folder, file, uses_ray, ()) if begun and not changed else None
        yield Attempt(folder, begun, ended, config)


def _decided(config: RunConfig, folder: Path, file: str) -> RunConfig:
    """Return the config with what it leaves to the machine decided: as it was, where an attempt has begun."""
    if config.learner.compile != "auto":
        return config
    begun = (folder / file).exists() and last_start(folder) is not None
    return settled(config, load_run_config(folder, file) if begun else None)


def _ended(
    config: RunConfig, folder: Path, file: str, uses_ray: bool, changeable: Collection[str]
) -> Mapping[str, Any] | None:
    ended = read_result(folder)
    if not ended or ended["status"] != "FINISHED":
        return None
    return None if _changed_settings(config, folder, file, uses_ray, changeable) else ended


@contextlib.contextmanager
def held(folder: Path, note: Callable[[str], None]) -> Iterator[None]:
    """Keep the attempts of the job to which a folder belongs out of it; nothing for a folder without a job."""
    job = read_record(folder / JOB, _JOB)
    if job is None:
        yield
        return
    with _locked(folder, job["job"], note):
        yield


def known_id(config: RunConfig, folder: Path) -> str:
    """Return what the attempt that finished the run or study called it: its MLflow run id, else its folder."""
    binding: dict[str, Any] | None = read_binding(folder) if config.tracking.enabled else None
    return binding["run_id"] if binding else folder.name


def earlier_result(config: RunConfig, folder: Path, ended: Mapping[str, Any]) -> Result:
    """Return the result of a run as the attempt that finished it did."""
    return Result(
        run_id=known_id(config, folder),
        status="FINISHED",
        metrics={name: float(value) for name, value in ended["metrics"].items()},
        counters=ended["counters"],
        weights_sha256=ended["weights_sha256"],
        run_dir=folder,
        tracking_uri=redacted_url(config.tracking.uri or ""),
        stopped_by=ended["stopped_by"],
        advice=ended.get("advice"),
        chaos=ended.get("chaos"),
    )


@contextlib.contextmanager
def _locked(folder: Path, job: str, note: Callable[[str], None]) -> Iterator[None]:
    """Hold the folder's lock; where the file system has no locks, say what that means and go on."""
    with contextlib.ExitStack() as stack:
        try:
            held = stack.enter_context(locked(folder / _LOCK, 0.0))
            if not held:
                note(f"another attempt still holds job {job}: waiting up to {_LOCK_DEADLINE_S:g} s for it")
                held = stack.enter_context(locked(folder / _LOCK, _LOCK_DEADLINE_S))
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            held = True
            note(f"{folder.parent} has no file locks: start no second attempt of job {job} on another machine")
        if not held:
            raise _is_running(folder, job)
        yield


def _is_running(folder: Path, job: str) -> UserError:
    process = read_process(folder)
    where = f" in process {process['pid']} on {process['host']}" if process else ""
    return UserError(f"job {job} is running{where}: wait for it, or stop it, first")


def _changed_settings(
    config: RunConfig, folder: Path, file: str, uses_ray: bool, changeable: Collection[str]
) -> list[str]:
    """Return which changeable settings differ; UserError where the job began with others, or with another kind."""
    begun = read_record(folder / JOB, _JOB)
    if begun is None:
        raise DamagedFileError(folder / JOB, "missing")
    nouns = {RUN: "run", STUDY: "study"}
    noun = nouns[begun.get("file", RUN)]
    if noun != nouns[file]:
        raise UserError(f"job {begun['job']} began a {noun}, not a {nouns[file]}: give another --job")
    before = flatten(redacted_tree(load_run_config(folder, file).to_tree()))
    now = flatten(redacted_tree(config.to_tree()))
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    changed = [key for key in changed if key not in OF_THE_PLACE]
    refused = [key for key in changed if key not in changeable]
    if refused:
        names = ", ".join(refused[:3]) + (f" and {len(refused) - 3} more" if len(refused) > 3 else "")
        raise UserError(f"job {begun['job']} began its {noun} with other {names}: keep those, or give another --job")
    if begun["uses_ray"] != uses_ray:
        how = "with" if uses_ray else "without"
        raise UserError(f"job {begun['job']} began its {noun} {how} --local: keep to that, or give another --job")
    return changed
