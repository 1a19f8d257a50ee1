"""The driver's side of tracking: append to the journal, keep a writer process alive, never wait for a server."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayloom.errors import UserError
from rayloom.files import is_there, replace_file
from rayloom.redaction import has_secret, redacted, redacted_tree
from rayloom.tracking import journal
from rayloom.tracking.claim import Claim
from rayloom.tracking.figure_drawing import DRAWING_LOCK, DRAWING_LOG, FigureDrawing
from rayloom.tracking.figure_store import store_figure
from rayloom.tracking.journal import WRITER_LOG, Acknowledgement, Journal, read_metrics
from rayloom.tracking.location import TRACKING_URI, private_file

if TYPE_CHECKING:
    from rayloom.contract import Figure

STATUSES = ("FINISHED", "FAILED", "KILLED")
MODEL_LOADER = "rayloom.launch.export:load_inference"
_POLL_S = 0.05
_RESTART_PAUSE_S = 1.0
_EXIT_DEADLINE_S = 5.0
_MOST_RESTARTS = 5
_NOWHERE = (-1, 0)
_LONGEST_PART = 200


class Tracker:
    """Records one run. Belongs to the driver's main thread; every call but the waits takes microseconds."""

    def __init__(self, run_dir: Path, drain_s: float, tracked: bool, hosted: bool, resume: bool) -> None:
        """Use `Tracker.start`."""
        self.run_dir = run_dir
        self._drain_s = drain_s
        self._tracked = tracked
        self._hosted = hosted
        self._has_writer = tracked and not hosted
        self._before = _last_places(run_dir) if resume else {}
        self._journal = Journal(run_dir)
        self._process: subprocess.Popen[bytes] | None = None
        self._restarts = 0  # since the last one that delivered something
        self._delivered = 0
        self._next_check = 0.0
        self._target: int | None = None
        self._leaves_model = False
        self._drawing: FigureDrawing | None = None
        self._claim: Claim | None = None
        self._uri = ""
        self.identity = ""
        """What ties the folder to its MLflow run and its checkpoints, wherever it lies."""

    @classmethod
    def start(
        cls,
        run_dir: Path,
        *,
        uri: str,
        experiment: str,
        run_name: str,
        params: Mapping[str, object],
        tags: Mapping[str, str],
        resume: bool,
        enabled: bool = True,
        system_metrics: bool = True,
        drain_s: float = 300.0,
        hosts: bool = False,
        hosted: bool = False,
        pictures: bool = True,
        identity: str | None = None,
    ) -> Tracker:
        """Open the journal of a run and start its writer process.

        Where there is no writer, figures are drawn into the folder by a process of their own, unless `pictures` is
        false.

        With `hosts` the run is a study: its writer also carries the journals of the trials, which are the folders
        `run_dir`/trials/*. With `hosted` the run is such a trial: it starts no writer and waits for none.

        `uri` comes from `resolve_uri`; its password reaches the writer through the environment, never through a file.
        `resume` goes on with the folder's MLflow run and leaves out the points that the journal already has. The writer
        tries for `drain_s` seconds after the end of the run to reach the server. `identity` is what a journal that is
        gone had, where a checkpoint knows it.
        UserError when another process trains in the same folder at the moment.
        """
        run_dir = run_dir.absolute()
        run_dir.mkdir(parents=True, exist_ok=True)
        _check_files(run_dir)
        claim = Claim(run_dir, enabled, hosted)
        tracker = cls(run_dir, drain_s, enabled, hosted, resume)
        tracker._claim = claim
        tracker._uri = uri
        tracker.identity = journal.read_identity(run_dir) or identity or uuid.uuid4().hex
        tracker._write(
            {
                "kind": "start",
                "time": journal.now_ms(),
                "journal": tracker.identity,
                "uri": uri if enabled else None,
                "experiment": experiment,
                "name": run_name,
                "params": {key: str(value) for key, value in params.items()},
                "tags": dict(tags),
                "system_metrics": system_metrics,
                "hosts": hosts,
            }
        )
        if tracker._has_writer:
            tracker._spawn()
        elif pictures and not enabled and not hosts and not hosted:
            tracker._drawing = FigureDrawing(run_dir)
        return tracker

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None until the writer has reached the server, and without tracking."""
        binding = journal.read_binding(self.run_dir) if self._tracked else None
        return binding["run_id"] if binding else None

    def wait_run_id(self, timeout_s: float) -> str | None:
        """Wait for `run_id`, at most `timeout_s` seconds; a hosted run does not wait."""
        deadline = time.monotonic() + timeout_s
        while self.run_id is None and self._has_writer and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        return self.run_id

    @property
    def problem(self) -> str | None:
        """What keeps the points from the server at the moment, in one line; None when all is well."""
        if not self._tracked:
            return None
        if self._restarts == _MOST_RESTARTS and self._process is not None and self._process.poll() is not None:
            code = self._process.returncode
            ends = f"the process that writes to it ended {1 + _MOST_RESTARTS} times"
            return f"{ends}, the last time with {code}: {WRITER_LOG}"
        return Acknowledgement.load(self.run_dir).problem

    def writer(self) -> int | None:
        """Return the process id of the writer, which is started again if it died; None where there is none."""
        if not self._has_writer or not self._keep_writer():
            return None
        assert self._process is not None
        return None if self._process.returncode is not None else self._process.pid

    def rewind(self) -> None:
        """Leave out the points that the journal already has from now on: the run goes on from a checkpoint."""
        self._before = _last_places(self.run_dir)

    def log_metrics(self, values: Mapping[str, float], step: int, updates: int | None = None) -> None:
        """Record numbers, infinite and undefined ones included, at a step that does not fall per key.

        `updates` tells points of one step apart, of which a run that goes on from a checkpoint repeats the first only.
        """
        place = (step, updates or 0)
        new = {key: float(value) for key, value in values.items() if place > self._before.get(key, _NOWHERE)}
        if new:
            order = {} if updates is None else {"updates": int(updates)}
            self._append({"kind": "metrics", "time": journal.now_ms(), "step": int(step), **order, "values": new})

    def log_figure(self, name: str, figure: Figure, step: int) -> None:
        """Record something to look at; another process draws it."""
        if (step, 0) <= self._before.get(_figure_key(name), _NOWHERE):
            return
        _check_inside(name)
        stem = f"figures/{name}/step_{step:09d}"
        store_figure(self.run_dir / f"{stem}.npz", figure)
        self._append({"kind": "figure", "name": name, "step": int(step), "stem": stem})
        if self._drawing is not None:
            self._drawing.update()

    def log_text(self, name: str, text: str) -> None:
        """Record a text file, for instance config.yaml, as an artifact of that name; URLs lose their passwords."""
        self._append(_write_artifact(self.run_dir, name, redacted(text)))

    def log_content(self, name: str, content: str | bytes) -> None:
        """Record a file of an evaluation; UserError when its name leads out of the run folder."""
        _check_inside(name)
        self._append(_write_artifact(self.run_dir, name, content))

    def log_file(self, name: str) -> None:
        """Record a file that lies under `run_dir`/artifacts already, as an artifact of that name."""
        self._append({"kind": "file", "name": name})

    def log_data(self, data: Mapping[str, str]) -> None:
        """Record the data that the run learns from: name, digest (SHA-256), source, fields and rows, in words."""
        self._append({"kind": "data", **data})
        self.set_tags({"rayloom.data": data["name"], "rayloom.data_sha256": data["digest"]})

    def log_model(self, path_of_checkpoint: Path, loader: str = MODEL_LOADER, wait: bool = True) -> None:
        """Ask the writer to log the trained model; `loader(run_dir)` gives (module, example of batch 2, description).

        Call it just before `finish`, which waits for the model only with `wait`: an export takes seconds, so without
        it the writer logs the model after the run's end, when this process may be gone already. The tag
        `rayloom.model` then holds MLflow's model id, "pending", "none", or "failed: " and the reason, whose details
        are in writer.log. The model of a hosted run is not logged: this call does nothing.
        """
        if self._hosted:
            return
        self._leaves_model = not wait
        self._append({"kind": "model", "checkpoint": str(path_of_checkpoint), "loader": loader, "wait": wait})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Record tags; a later value replaces an earlier one."""
        self._append({"kind": "tags", "tags": {key: str(value) for key, value in tags.items()}})

    def history(self) -> list[tuple[int, str, float]]:
        """Return every metric point of the run, those of earlier processes included, as (step, key, value)."""
        return read_metrics(self.run_dir)

    def finish(self, status: str, *, timeout_s: float = 60.0) -> bool:
        """Record the terminal status and wait until MLflow has everything.

        Returns False when `timeout_s` seconds passed first: the journal stays, and the writer, or the writer of the
        next run in the same output folder, delivers it. A hosted run does not wait: True at once.
        """
        assert status in STATUSES, status
        if self._target is None:
            self._append({"kind": "finish", "status": status, "time": journal.now_ms()})
            self._target = self._journal.size
            self._journal.close()
            if self._claim is not None:
                self._claim.release()
            if self._drawing is not None:
                self._drawing.finish()
        return self._wait_delivered(time.monotonic() + timeout_s) if self._has_writer else True

    def _wait_delivered(self, deadline: float) -> bool:
        assert self._target is not None
        while True:
            acknowledgement = Acknowledgement.load(self.run_dir)
            if acknowledgement.status is not None and acknowledgement.offset >= self._target:
                if not self._leaves_model:
                    self._await_exit()
                return True
            if not self._keep_writer() or time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_S)

    def _await_exit(self) -> None:
        """Let the writer, which has nothing left to do, go; it then no longer holds the run's lock."""
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_EXIT_DEADLINE_S)

    def _append(self, record: dict[str, Any]) -> None:
        self._write(record)
        if self._has_writer:
            self._keep_writer()

    def _write(self, record: dict[str, Any]) -> None:
        try:
            self._journal.append(record if record["kind"] == "metrics" else redacted_tree(record))
        except FileNotFoundError as error:
            raise UserError(
                f"the folder {self.run_dir} was deleted while the run was going on: start it again, and leave it there"
            ) from error
        except OSError as error:
            raise UserError(
                f"the journal in {self.run_dir} cannot be written ({error.strerror or error}): free some disk space "
                f"and resume the run; its last checkpoint is intact"
            ) from error

    def _keep_writer(self) -> bool:
        """Start the writer again if it died; False when it died too often. Looks once a second only."""
        now = time.monotonic()
        if now < self._next_check:
            return True
        self._next_check = now + _RESTART_PAUSE_S
        assert self._process is not None
        if self._process.poll() is None:
            return True
        delivered = Acknowledgement.load(self.run_dir).offset
        if delivered > self._delivered:
            self._restarts, self._delivered = 0, delivered  # those before it were of use
        if self._restarts == _MOST_RESTARTS or self._process.returncode in (journal.GAVE_UP, journal.DELETED):
            return False
        self._restarts += 1
        self._spawn()
        return True

    def _spawn(self) -> None:
        """Start the writer in a session of its own, so that the terminal's Ctrl-C does not reach it."""
        folders = [str(Path(entry).absolute()) for entry in sys.path]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": "1"}
        if has_secret(self._uri):  # the journal has it without
            environment[TRACKING_URI] = self._uri
        command = [
            "-P",
            "-m",
            "rayloom.tracking.writer.process",
            str(self.run_dir),
            str(os.getpid()),
            str(self._drain_s),
        ]
        with private_file(self.run_dir / WRITER_LOG) as log:
            self._process = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        self._next_check = time.monotonic() + _RESTART_PAUSE_S


def record_end(
    run_dir: Path, status: str, tags: Mapping[str, str] | None = None, text: tuple[str, str] | None = None
) -> bool:
    """End the journal of a trial whose process is dead, from the study's driver.

    `text` is (name, content) of a file to record first, for instance a traceback. False, and nothing is written, when
    the trial never started or has recorded its end itself.
    """
    assert status in STATUSES, status
    kinds = [record["kind"] for record, _ in journal.read_records(run_dir) if record["kind"] in ("start", "finish")]
    if not kinds or kinds[-1] == "finish":
        return False
    ended = Journal(run_dir)
    try:
        if text is not None:
            ended.append(_write_artifact(run_dir, text[0], redacted(text[1])))
        if tags:
            ended.append({"kind": "tags", "tags": {key: redacted(str(value)) for key, value in tags.items()}})
        ended.append({"kind": "finish", "status": status, "time": journal.now_ms()})
    finally:
        ended.close()
    return True


def _write_artifact(run_dir: Path, name: str, content: str | bytes) -> dict[str, Any]:
    """Write an artifact in one step and return its record."""
    target = run_dir / "artifacts" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    replace_file(target, content, journal.NOT_FOR_ALL)
    return {"kind": "file", "name": name}


def _check_files(run_dir: Path) -> None:
    """Raise DamagedFileError for what the writer of an earlier process left and this one could not go on with."""
    for name in (journal.LOCK, WRITER_LOG, DRAWING_LOCK, DRAWING_LOG):
        is_there(run_dir / name, sys.maxsize)
    journal.read_binding(run_dir)
    Acknowledgement.load(run_dir)


def _check_inside(name: str) -> None:
    """Raise UserError for a name of a figure or file that leads out of the run folder."""
    parts = name.split("/")
    if not name.isprintable() or {"", ".", ".."}.intersection(parts) or max(map(len, parts)) > _LONGEST_PART:
        raise UserError(
            f"an evaluation names the file {name[:200]!r}; give a path inside the run folder, as games/last.sgf"
        )


def _figure_key(name: str) -> str:
    return f"figure {name}"


def _last_places(run_dir: Path) -> dict[str, tuple[int, int]]:
    """Return (step, updates) of the last point that the journal has of every metric and figure."""
    last: dict[str, tuple[int, int]] = {}
    for record, _ in journal.read_records(run_dir):
        if record["kind"] == "metrics":
            place = (record["step"], record.get("updates", sys.maxsize))
            for key in record["values"]:
                last[key] = max(place, last.get(key, _NOWHERE))
        elif record["kind"] == "figure":
            key = _figure_key(record["name"])
            last[key] = max((record["step"], 0), last.get(key, _NOWHERE))
    return last
