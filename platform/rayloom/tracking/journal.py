"""The journal of a run: append-only JSON lines, the acknowledgement of its reader, and who owns the run folder.

Files in `internal/` of a run folder: `journal.jsonl` (one record a line), `journal.ack` (how far MLflow has it),
`mlflow.json` (which MLflow run it became), `process.json` (the process that trains), `writer.lock` (held by the one
writer), `writer.log` (what the writer has to say).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from rayloom.files import INTERNAL, NUMBER, DamagedFileError, Fields, is_there, make_internal, read_record, write_json

JOURNAL = f"{INTERNAL}/journal.jsonl"
ACKNOWLEDGEMENT = f"{INTERNAL}/journal.ack"
BINDING = f"{INTERNAL}/mlflow.json"
PROCESS = f"{INTERNAL}/process.json"
LOCK = f"{INTERNAL}/writer.lock"
WRITER_LOG = f"{INTERNAL}/writer.log"

GAVE_UP = 3
"""Exit code of a writer that did not reach the server in time."""
DELETED = 4
"""Exit code of a writer whose run was deleted from the store."""

Record = dict[str, Any]

NOT_FOR_ALL = 0o640
"""Mode of stores: what a run found is for its user and, where the umask lets it, for the group."""

_LARGEST_JOURNAL = 2**50
_RECORDS: dict[str, Fields] = {
    "start": {"journal": str, "experiment": str, "name": str, "params": dict, "tags": dict},
    "metrics": {"step": int, "values": dict},
    "figure": {"name": str, "step": int, "stem": str},
    "file": {"name": str},
    "tags": {"tags": dict},
    "finish": {"status": str, "time": int},
}
"""What the records of each kind have at least."""
_LONGEST_RECORD = 64 * 2**20
_CHUNK = 4 * 1024 * 1024
_CLOCK_TOLERANCE_S = 5.0


def now_ms() -> int:
    """Return the time in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def read_process(folder: Path) -> dict[str, Any] | None:
    """Return which process trains, or trained last, in a folder; None where none did. DamagedFileError otherwise."""
    process = read_record(folder / PROCESS, {"pid": int, "created": NUMBER, "host": str})
    if process and not 0 < process["pid"] < 2**31:
        raise DamagedFileError(folder / PROCESS, "pid is missing or wrong")
    return process


def owner(folder: Path) -> dict[str, Any]:
    """Return the process that trains, or trained last, in a folder where one did."""
    process = read_process(folder)
    if process is None:
        raise DamagedFileError(folder / PROCESS, "missing")
    return process


def read_binding(folder: Path) -> dict[str, Any] | None:
    """Return which MLflow run a folder's run became; None where it is not known. DamagedFileError otherwise."""
    return read_record(folder / BINDING, {"run_id": str})


class Journal:
    """Appends records to a journal. One process at a time; a torn last line is cut off at opening.

    Each record reaches the operating system before `append` returns, so that kill -9 loses nothing.
    """

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / JOURNAL
        make_internal(run_dir)
        is_there(self._path, _LARGEST_JOURNAL)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, NOT_FOR_ALL)
        try:
            self.size = _complete_size(self._file, self._path)
        except DamagedFileError:
            self.close()
            raise
        os.ftruncate(self._file, self.size)

    def append(self, record: Record) -> None:
        """Append one record; OSError (disk full, file deleted) leaves the journal as it was."""
        if os.fstat(self._file).st_nlink == 0:  # whoever deletes a run's folder means the run
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._path))
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        written = os.write(self._file, line)
        if written != len(line):
            os.ftruncate(self._file, self.size)
            raise OSError(f"{self._path} took only {written} of {len(line)} bytes: free some disk space")
        self.size += written

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _complete_size(file: int, path: Path) -> int:
    """Return the length of the journal up to and including its last line end."""
    end = size = os.fstat(file).st_size
    while end > 0:
        if size - end > _LONGEST_RECORD:
            raise DamagedFileError(path, f"it ends with {_LONGEST_RECORD // 2**20} MiB or more without a line end")
        start = max(0, end - 65536)
        newline = os.pread(file, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def read_records(run_dir: Path, offset: int = 0, limit: int | None = None) -> Iterator[tuple[Record, int]]:
    """Yield the complete records from byte `offset` on, each with the offset after it; about `limit` bytes of them.

    A line that is no record of ours (disk damage) is yielded as {"kind": "unreadable"}.
    """
    if not is_there(run_dir / JOURNAL, _LARGEST_JOURNAL):
        return
    with open(run_dir / JOURNAL, "rb") as file:
        file.seek(offset)
        start = offset
        while line := file.readline(_LONGEST_RECORD):
            if len(line) == _LONGEST_RECORD:
                raise DamagedFileError(run_dir / JOURNAL, f"a line of {_LONGEST_RECORD // 2**20} MiB or more")
            if not line.endswith(b"\n") or (limit is not None and offset - start > limit):
                return
            offset += len(line)
            yield _parse(line), offset


def read_some(run_dir: Path, offset: int) -> list[tuple[Record, int]]:
    """Return the next few megabytes of records."""
    return list(read_records(run_dir, offset, _CHUNK))


def _parse(line: bytes) -> Record:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return {"kind": "unreadable"}
    if not isinstance(record, dict) or not isinstance(record.get("kind"), str):
        return {"kind": "unreadable"}
    for name, kind in _RECORDS.get(record["kind"], {}).items():
        if not isinstance(record.get(name), kind) or isinstance(record[name], bool):
            return {"kind": "unreadable"}
    if record["kind"] == "metrics" and not all(isinstance(value, NUMBER) for value in record["values"].values()):
        return {"kind": "unreadable"}
    return record


def read_metrics(run_dir: Path) -> list[tuple[int, str, float]]:
    """Return every metric point of a run as (step, key, value), in the order of logging."""
    return [
        (record["step"], key, value)
        for record, _ in read_records(run_dir)
        if record["kind"] == "metrics"
        for key, value in record["values"].items()
    ]


def last_start(run_dir: Path) -> tuple[Record, int] | None:
    """Return the newest start record and the offset after it; None where no run started."""
    found = None
    for record, end in read_records(run_dir):
        if record["kind"] == "start":
            found = record, end
    return found


def read_identity(run_dir: Path) -> str | None:
    """Return what its first start called a run, whatever the place of its folder; None where that is not known."""
    for record, _ in read_records(run_dir):
        if record["kind"] == "start":
            return str(record["journal"])
    return None


def last_kind(run_dir: Path) -> str | None:
    """Return the kind of the last record, reading the end of the journal only; None without any record."""
    if not is_there(run_dir / JOURNAL, _LARGEST_JOURNAL):
        return None
    with open(run_dir / JOURNAL, "rb") as file:
        size = _complete_size(file.fileno(), run_dir / JOURNAL)
        file.seek(max(0, size - 65536))
        lines = file.read(size - file.tell()).splitlines()
    return str(_parse(lines[-1])["kind"]) if lines else None


@dataclass
class Acknowledgement:
    """How far the writer has carried the journal."""

    offset: int = 0
    """Bytes of the journal that MLflow has."""
    status: str | None = None
    """Terminal status in MLflow; None while the run goes on."""
    problem: str | None = None
    """What keeps the writer from delivering at the moment, in one line."""

    @classmethod
    def load(cls, run_dir: Path) -> Acknowledgement:
        """Read the acknowledgement; nothing is acknowledged where there is none."""
        path = run_dir / ACKNOWLEDGEMENT
        content = read_record(path, {"offset": int})
        if content is None:
            return cls()
        try:
            found = cls(**content)
        except TypeError:
            raise DamagedFileError(path, "other fields") from None
        if found.offset < 0 or not all(isinstance(text, str | None) for text in (found.status, found.problem)):
            raise DamagedFileError(path, "offset, status or problem is wrong")
        return found

    def save(self, run_dir: Path) -> None:
        """Write the acknowledgement atomically."""
        write_json(run_dir / ACKNOWLEDGEMENT, asdict(self))


def is_delivered(run_dir: Path) -> bool:
    """Tell whether MLflow has the whole journal and the run's terminal status."""
    acknowledgement = Acknowledgement.load(run_dir)
    if acknowledgement.status == "DELETED":
        return True
    return acknowledgement.status is not None and not read_some(run_dir, acknowledgement.offset)


def own_process() -> dict[str, Any]:
    """Describe this process so that others can tell later whether it still lives."""
    process = psutil.Process()
    return {"pid": process.pid, "created": process.create_time(), "host": socket.gethostname()}


def is_alive(process: dict[str, Any]) -> bool | None:
    """Tell whether a process that `own_process` described lives; None when it belongs to another machine."""
    if process["host"] != socket.gethostname():
        return None
    try:
        found = psutil.Process(process["pid"])
        same = abs(found.create_time() - process["created"]) < _CLOCK_TOLERANCE_S
        return bool(same and found.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def open_lock(path: Path) -> int:
    """Open a file to lock it, and make it if need be; DamagedFileError for what is no file."""
    is_there(path)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, NOT_FOR_ALL)


@contextlib.contextmanager
def locked(path: Path, timeout_s: float) -> Iterator[bool]:
    """Hold an exclusive lock on a file; yields False when another process kept it for `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    with os.fdopen(open_lock(path), "ab") as file:
        while not (held := _try_lock(file)) and time.monotonic() < deadline:
            time.sleep(0.05)
        yield held


def _try_lock(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
