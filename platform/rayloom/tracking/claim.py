"""One process at a time trains in a run's folder, on whichever machine or in whichever container it is.

A process id says nothing on another machine, and host names may be equal. The claim is a lock on a file in the folder,
which the system, or the file server, lets go when its process ends in whatever way. It is a POSIX lock: unlike `flock`
no child of the process can keep it. Such a lock ends as soon as its process closes the file anywhere, so nobody else
opens that file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
import uuid
from pathlib import Path
from typing import Any

from rayloom.errors import UserError
from rayloom.files import INTERNAL, make_internal, write_json
from rayloom.tracking import journal

LOCK = f"{INTERNAL}/process.lock"
_DEADLINE_S = 30.0
_POLL_S = 0.1
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
"""Errors of a file system that has no locks."""


class Claim:
    """A run's folder, taken by this process until `release` or its end."""

    def __init__(self, run_dir: Path, tracked: bool, hosted: bool) -> None:
        """Take the folder; UserError when another process trains there.

        A trial (`hosted`) waits a while for the process that trained it before: the workers of a killed driver die a
        moment later.
        """
        self._file = -1
        make_internal(run_dir)
        deadline = time.monotonic() + (_DEADLINE_S if hosted else 0.0)
        while (other := self._hinderer(run_dir)) is not None:
            if time.monotonic() >= deadline:
                self.release()
                raise UserError(f"{run_dir.name} is training in {other}: wait for it, or stop it, first")
            time.sleep(_POLL_S)
        owner = {**journal.own_process(), "session": uuid.uuid4().hex, "tracked": tracked, "hosted": hosted}
        write_json(run_dir / journal.PROCESS, owner)

    def _hinderer(self, run_dir: Path) -> str | None:
        """Take the lock and return None, or return in words who keeps the folder."""
        other = journal.read_process(run_dir)
        taken = self._lock(run_dir)
        if taken is None:  # at least a living process of this machine is known
            taken = other is None or not _is_at_work(other, run_dir)
        if taken:
            return None
        return "another process" if other is None else f"process {other['pid']} on {other['host']}"

    def _lock(self, run_dir: Path) -> bool | None:
        """Tell whether this process has the lock now; None where the file system has no locks."""
        if self._file < 0:
            self._file = journal.open_lock(run_dir / LOCK)
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            return None
        return True

    def release(self) -> None:
        """Let others train in the folder. Idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _is_at_work(other: dict[str, Any], run_dir: Path) -> bool:
    """Tell whether another living process trains in the folder; one that has ended this run may live on."""
    if other["pid"] == os.getpid() or not journal.is_alive(other):
        return False
    return journal.last_kind(run_dir) != "finish"
