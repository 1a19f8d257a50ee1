"""What a run ran on: the state of the source tree, the installed packages, the hardware."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

_DEADLINE_S = 10.0
_LARGEST_DIFF = 5_000_000
_SOURCES = ("*.py", "*.yaml", "*.yml", "*.toml", "*.sh")


@dataclass(frozen=True)
class GitState:
    """The source tree of a run."""

    commit: str
    """Full hash of HEAD."""
    branch: str
    """Branch name, or "HEAD" when detached."""
    diff: str
    """Patch from HEAD to the working tree, new source files included; empty when clean."""

    def tags(self) -> dict[str, str]:
        """Return the tags that MLflow shows."""
        return {
            "mlflow.source.git.commit": self.commit,
            "mlflow.source.git.branch": self.branch,
            "rayloom.dirty": str(bool(self.diff)).lower(),
        }


def git_state(folder: Path) -> GitState | None:
    """Return the state of the git tree that holds `folder`; None outside of one or without git.

    A patch above 5 MB is cut, with a last line that says so.
    """
    head = _git(folder, "rev-parse", "--show-toplevel", "HEAD", "--abbrev-ref", "HEAD")
    if head is None:
        return None
    top, commit, branch = head.decode(errors="replace").split("\n")[:3]
    diff = (_diff(Path(top)) or b"").decode(errors="replace")
    if len(diff) > _LARGEST_DIFF:
        diff = diff[:_LARGEST_DIFF] + f"\n# cut here: the patch has {len(diff)} characters\n"
    return GitState(commit=commit, branch=branch, diff=diff)


def _diff(top: Path) -> bytes | None:
    """Return the patch from HEAD; new sources enter it through a copy of the index, the real one stays untouched."""
    new = _git(top, "ls-files", "-z", "--others", "--exclude-standard", "--", *_SOURCES)
    if not new:
        return _git(top, "diff", "HEAD")
    index = _git(top, "rev-parse", "--path-format=absolute", "--git-path", "index")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "index"
        original = Path(os.fsdecode((index or b"").strip()))
        if original.is_file():
            shutil.copyfile(original, copy)
        _git(top, "add", "--intent-to-add", "--pathspec-from-file=-", "--pathspec-file-nul", index=copy, text=new)
        return _git(top, "diff", "HEAD", index=copy)


def _git(folder: Path, *arguments: str, index: Path | None = None, text: bytes = b"") -> bytes | None:
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    if index is not None:
        environment["GIT_INDEX_FILE"] = str(index)
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            input=text,
            capture_output=True,
            timeout=_DEADLINE_S,
            env=environment,
            check=False,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


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
