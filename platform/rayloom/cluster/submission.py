"""Submitting a run or a study as a job of a Ray cluster: checked and uploaded here, with the git state of here.

    rayloom submit: check -> zip of this folder + SUBMISSION -> Ray's job server -> python -m rayloom run ... --job ID

`ray job submit` uploads the same where RAY_JOB_SUBMIT_HOOK is rayloom.cluster.submission.submit_hook.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import secrets
import shlex
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import urlsplit

from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE, create_package
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from rayloom.config.load import load, parse_yaml
from rayloom.config.schema import RunConfig
from rayloom.database_urls import sqlite_path
from rayloom.errors import UserError
from rayloom.redaction import has_secret, redacted_url
from rayloom.runs.jobs import job_folder
from rayloom.runs.plan import make_plan
from rayloom.tracking.provenance import SUBMISSION, submission_text

_ADDRESS = "http://127.0.0.1:8265"
_ANSWER_S = 60.0  # for one request to the job server; Ray itself would wait for ever
_LOST_S = 300.0  # without any answer while a job is followed
_LOOK_S = 1.0
_REST = 5  # a pause is so many times as long as the look before it, which transfers the whole log
_EXCLUDES = (".git", ".venv", "venv", "__pycache__", SUBMISSION)
_STATUSES = {"SUCCEEDED": "FINISHED", "FAILED": "FAILED", "STOPPED": "KILLED"}
_TRACKING = "MLFLOW_TRACKING_URI"
_SERVER = "RAY_API_SERVER_ADDRESS"


class _Client(JobSubmissionClient):
    """Ray's client, with a deadline for every request."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        return super()._do_request(method, endpoint, **{"timeout": _ANSWER_S, **options})


@dataclass(frozen=True)
class Ended:
    """How a job ended."""

    status: str
    """FINISHED, FAILED or KILLED."""
    exit_code: int
    """What its command returned, as a shell reports it."""


@dataclass(frozen=True)
class Submission:
    """A command that is ready to be sent to a cluster, with the folder in which it will run."""

    id: str
    """Ray's id of the job."""
    job: str
    """The id by which an attempt finds its run or study, see `rayloom.runs.jobs`."""
    address: str
    """URL of the cluster's dashboard."""
    entrypoint: str
    """The command, for a shell."""
    folder: Path
    """What is uploaded, and the command's working directory there."""
    environment: Mapping[str, Any]
    """Ray's runtime environment, without a working directory."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of Ray's `submit_job`."""
    notes: tuple[str, ...] = ()
    """Remarks for whoever submits."""


def prepare(
    name: str,
    overrides: Sequence[str],
    *,
    address: str | None = None,
    runtime_env: Path | None = None,
    job: str | None = None,
    check_study: Callable[[RunConfig], object] | None = None,
) -> Submission:
    """Check a config and its overrides here, so that a mistake costs no upload; with `check_study`, as a study."""
    config = load(name, overrides)
    make_plan(config, False)
    for override in overrides:
        key, _, value = override.partition("=")
        if has_secret(value):
            raise UserError(
                f"{key}: the dashboard shows a job's words to everybody; write *** for the password, and set the "
                f"variable with the whole URL on the nodes (docs/trust.md), or keep it in the config"
            )
    if check_study is not None:
        check_study(config)
        storage = config.search.storage if config.search is not None else None
        file = None if storage is None else sqlite_path(storage)
        if file is not None and not file.is_absolute():
            raise UserError(
                "search.storage: the file would go with its node; name one that all share, as sqlite:////mnt/s.db"
            )
    if not Path(config.output).is_absolute():
        raise UserError(f"output: {config.output} would go with its node; name a folder that all share, as /mnt/runs")
    environment = _read_environment(runtime_env or _shipped_environment())
    note = _pass_tracking_on(config, environment)
    submission_id = f"{re.sub('[^A-Za-z0-9]+', '-', config.name).strip('-') or 'run'}-{secrets.token_hex(4)}"
    job = job or submission_id
    job_folder(Path(config.output), job)
    words = ["run" if check_study is None else "search", _uploaded_name(name, Path.cwd())]
    words += [word if "=" in word else _uploaded_name(word, Path.cwd()) for word in overrides] + ["--job", job]
    return Submission(
        id=submission_id,
        job=job,
        address=_url(address),
        entrypoint=shlex.join(["python", "-m", "rayloom", *words]),
        folder=Path.cwd(),
        environment=environment,
        notes=(note,) if note else (),
    )


def send(submission: Submission) -> None:
    """Upload the folder and start the job; UserError where the cluster is out of reach or refuses."""
    for module in ("_private.runtime_env.packaging", "dashboard.modules.dashboard_sdk"):
        logging.getLogger(f"ray.{module}").setLevel(logging.WARNING)  # the first line is the job's id
    with _in_a_sentence(submission.address), tempfile.TemporaryDirectory() as scratch:
        client = _connect(submission.address)
        excludes = [*_EXCLUDES, *(submission.environment.get("excludes") or [])]
        package = _pack(submission.folder, excludes, Path(scratch))
        client.submit_job(
            entrypoint=submission.entrypoint,
            submission_id=submission.id,
            runtime_env={**submission.environment, "working_dir": str(package)},
            **submission.options,
        )


def follow(submission: Submission, stream: TextIO) -> Ended:
    """Print the job's log until the job ends; UserError when its cluster does not answer for some minutes."""
    with _in_a_sentence(submission.address):
        client = _connect(submission.address)
    shown, heard = 0, time.monotonic()
    problem = ""
    try:
        while True:
            began = time.monotonic()
            try:
                job = client.get_job_info(submission.id)
                log: str = client.get_job_logs(submission.id)
                heard = time.monotonic()
                stream.write(log[shown:])
                stream.flush()
                shown = len(log)
                if job.status.is_terminal():
                    return _ended(job, stream)
            except (OSError, RuntimeError, AuthenticationError) as error:
                problem = _first_line(error)
            if time.monotonic() - heard > _LOST_S:
                raise UserError(
                    f"{submission.address} has not answered for {_LOST_S:g} s ({problem}); the job {submission.id} may "
                    f"go on: look with ray job status {submission.id}"
                )
            time.sleep(max(_LOOK_S, _REST * (time.monotonic() - began)))
    except KeyboardInterrupt:
        stream.write(f"the job goes on; end it with: ray job stop --address {submission.address} {submission.id}\n")
        raise


def submit_hook(
    *,
    address: str | None,
    runtime_env: str | None,
    runtime_env_json: str | None,
    working_dir: str | None,
    entrypoint: Sequence[str],
    submission_id: str | None,
    metadata_json: Mapping[str, str] | None,
    no_wait: bool,
    **others: Any,
) -> None:
    """Do what `ray job submit` is about to do, with the git state of its working directory, and end the process.

    Returns, so that Ray goes on by itself, where no folder is uploaded. The arguments are Ray's.
    """
    try:
        environment = (
            _read_environment(Path(runtime_env), True) if runtime_env else json.loads(runtime_env_json or "{}")
        )
        folder = Path(working_dir or environment.pop("working_dir", "://"))
        environment.pop("working_dir", None)
        if not folder.is_dir():
            return
        submission = Submission(
            id=submission_id or f"raysubmit_{secrets.token_hex(8)}",
            job="",
            address=_url(address),
            entrypoint=shlex.join(entrypoint),
            folder=folder,
            environment=environment,
            options={
                "metadata": dict(metadata_json or {}),
                **{key: value for key, value in others.items() if key.startswith("entrypoint_") and value is not None},
            },
        )
        send(submission)
        print(submission.id, flush=True)
        code = 0 if no_wait else follow(submission, sys.stdout).exit_code
    except UserError as error:
        print(f"rayloom: {error}", file=sys.stderr)
        code = 2
    raise SystemExit(code)


def _connect(address: str) -> _Client:
    headers = os.environ.get("RAY_JOB_HEADERS")
    before = os.environ.get(_SERVER)
    os.environ[_SERVER] = address  # Ray prefers this variable to the argument
    try:
        return _Client(address, headers=json.loads(headers) if headers else None)
    finally:
        if before is None:
            del os.environ[_SERVER]
        else:
            os.environ[_SERVER] = before


@contextlib.contextmanager
def _in_a_sentence(address: str) -> Iterator[None]:
    """Turn the refusals of a cluster into UserErrors."""
    try:
        yield
    except AuthenticationError as error:
        raise UserError(
            f"{address} wants Ray's authentication token ({_first_line(error)}): set RAY_AUTH_MODE=token and "
            f"RAY_AUTH_TOKEN_PATH to a file with the cluster's token"
        ) from None
    except OSError as error:
        raise UserError(f"--address: no Ray cluster answers at {address} ({_first_line(error)})") from None
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{address} refused the job: {_first_line(error)}") from None


def _first_line(error: BaseException) -> str:
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line.split(". ")[0][:200].rstrip(".")


def _url(address: str | None) -> str:
    """Return the dashboard's URL: the argument, else what Ray's variables say, else this machine's."""
    variables = (os.environ.get(_SERVER), os.environ.get("RAY_ADDRESS"))
    chosen = address or next((value for value in variables if value and "://" in value), _ADDRESS)
    if urlsplit(chosen).scheme not in ("http", "https"):
        raise UserError(f"--address: write the URL of the cluster's dashboard, as {_ADDRESS}, not {chosen}")
    return chosen.rstrip("/")


def _shipped_environment() -> Path:
    """Return the shipped runtime environment; beside the source in a checkout, inside the package in a wheel."""
    package = Path(__file__).resolve().parent.parent
    beside = package.parent.parent / "configs/cluster/runtime_env.yaml"
    return beside if beside.is_file() else package / "configs/cluster/runtime_env.yaml"


def _read_environment(path: Path, working_dir: bool = False) -> dict[str, Any]:
    """Read a runtime environment; `working_dir` allows it to name one."""
    try:
        environment = parse_yaml(path.read_text(encoding="utf-8"), str(path)) or {}
    except OSError as error:
        raise UserError(f"--runtime-env: {path} cannot be read ({error.strerror})") from None
    if not isinstance(environment, dict):
        raise UserError(f"--runtime-env: {path} holds no mapping; see Ray's runtime environments")
    if "working_dir" in environment and not working_dir:
        raise UserError(f"--runtime-env: leave working_dir out of {path}: the folder in which you are is uploaded")
    return environment


def _pass_tracking_on(config: RunConfig, environment: dict[str, Any]) -> str:
    """Add the tracking server of this shell to the job's variables; return a remark where it must stay here."""
    uri = os.environ.get(_TRACKING, "")
    if not uri or config.tracking.uri or _TRACKING in (environment.get("env_vars") or {}):
        return ""
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        return f"{_TRACKING}={redacted_url(uri)} is this machine's own: the job records its run under {config.output}"
    if has_secret(uri):
        return f"{_TRACKING} has a password, which the dashboard would show: set it on the cluster's nodes instead"
    environment["env_vars"] = {**(environment.get("env_vars") or {}), _TRACKING: uri}
    return ""


def _uploaded_name(name: str, folder: Path) -> str:
    """Return what the config is called within the upload of `folder`."""
    path = Path(name)
    if not path.is_file():
        return name
    try:
        return path.resolve().relative_to(folder.resolve()).as_posix()
    except ValueError:
        raise UserError(
            f"{name} lies outside of {folder}, which is what is uploaded: call this from above it"
        ) from None


def _pack(folder: Path, excludes: Sequence[str], scratch: Path) -> Path:
    """Zip a folder as Ray would, .gitignore heeded, and add the state of its git tree."""
    package = scratch / "package.zip"
    create_package(str(folder), package, include_gitignore=True, excludes=list(excludes))
    with zipfile.ZipFile(package, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(SUBMISSION, submission_text(folder))
        largest = sorted(archive.infolist(), key=lambda entry: entry.compress_size)[-3:]
    size = package.stat().st_size
    if size > GCS_STORAGE_MAX_SIZE:
        names = ", ".join(entry.filename for entry in reversed(largest))
        raise UserError(
            f"the upload has {size >> 20} MiB and Ray takes {GCS_STORAGE_MAX_SIZE >> 20}: exclude files in .gitignore "
            f"or in the runtime environment (the largest are {names})"
        )
    return package


def _ended(job: Any, stream: TextIO) -> Ended:
    status = _STATUSES[str(job.status.value)]
    code: int | None = job.driver_exit_code
    if status != "FINISHED" and code is None:  # stopped, or its runtime environment could not be made
        stream.write(f"{job.message}\n")
    if not code:
        code = {"FINISHED": 0, "FAILED": 1, "KILLED": 143}[status]
    return Ended(status, 128 - code if code < 0 else code)
