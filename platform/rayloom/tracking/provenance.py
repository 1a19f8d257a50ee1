"""What a run ran on: the state of the source tree, the installed packages, the hardware."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from rayloom.tracking.patch import UNKNOWN, git, patch

_DEADLINE_S = 10.0

SUBMISSION = "rayloom-submission.json"
"""A file at the top of an uploaded tree: the git state of the machine that submitted it."""
_UPLOAD = "_ray_pkg_"  # the folder into which Ray unpacks a working directory; no .git comes along
_JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # this is the variable's name: Ray sets it for the driver of a job
_UNKNOWN = "unknown: uploaded without it (rayloom submit, in a git checkout, records it)"


@dataclass(frozen=True)
class GitState:
    """The source tree of a run."""

    commit: str
    """Full hash of HEAD; empty for an uploaded tree of which nobody recorded it."""
    branch: str
    """Branch name, or "HEAD" when detached."""
    diff: str
    """Patch from HEAD to the working tree, with a line for each file that it leaves out; empty when clean."""

    def tags(self) -> dict[str, str]:
        """Return the tags that MLflow shows."""
        if not self.commit:
            return {"rayloom.commit": _UNKNOWN, "rayloom.dirty": "unknown"}
        return {
            "mlflow.source.git.commit": self.commit,
            "mlflow.source.git.branch": self.branch,
            "rayloom.dirty": "unknown" if self.diff.startswith(UNKNOWN) else str(bool(self.diff)).lower(),
        }


def git_state(folder: Path) -> GitState | None:
    """Return the state of the git tree that holds `folder`; None outside of one or without git.

    In a tree that was uploaded to a cluster it is the state of the machine that submitted it, whatever git tree the
    upload lies in.
    """
    upload = _upload(folder)
    if upload is not None:
        return _submitted(upload)
    head = git(folder, "rev-parse", "--show-toplevel", "HEAD", "--abbrev-ref", "HEAD")
    if head is None:
        return None
    top, commit, branch = head.decode(errors="replace").split("\n")[:3]
    return GitState(commit=commit, branch=branch, diff=patch(Path(top)))


def submission_text(folder: Path) -> str:
    """Return what `SUBMISSION` says for an upload of `folder`."""
    state = git_state(folder) or GitState(commit="", branch="", diff="")
    return json.dumps(asdict(state))


def _upload(folder: Path) -> Path | None:
    """Return the uploaded tree that holds `folder`; None where nothing was uploaded."""
    folder = folder.absolute()
    return next((path for path in (folder, *folder.parents) if path.name.startswith(_UPLOAD)), None)


def _submitted(upload: Path) -> GitState:
    try:
        return GitState(**json.loads((upload / SUBMISSION).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return GitState(commit="", branch="", diff="")


def is_uploaded(folder: Path) -> bool:
    """Tell whether `folder` belongs to a tree that Ray unpacked for a job, which goes with the job's node."""
    return _upload(folder) is not None


def ray_job_tag() -> dict[str, str]:
    """Return the tag that names the Ray job whose driver this process is; none elsewhere."""
    metadata = json.loads(os.environ.get(_JOB_CONFIG) or "{}").get("metadata") or {}
    submission_id = metadata.get("job_submission_id")
    return {"rayloom.ray_job": str(submission_id)} if submission_id else {}


def environment() -> dict[str, Any]:
    """Return the machine and the installed packages as plain data. Takes a noticeable part of a second."""
    packages = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions() if d.metadata["Name"]}
    return {
        "python": sys.version,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cpu_cores": psutil.cpu_count(logical=False),
        "cpu_threads": psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": _gpus(),
        "packages": dict(sorted(packages.items(), key=lambda item: item[0].lower())),
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _gpus() -> list[str]:
    """Return one line per NVIDIA GPU; CUDA in this process would take memory, so the driver's tool is asked."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=_DEADLINE_S, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []
