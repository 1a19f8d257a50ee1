"""The writer of a run: carries the journal to MLflow and ends the run truthfully when the driver dies.

It sends, then acknowledges, so a crash between the two repeats a send; MLflow stores a repeated point once, because
the journal fixes its timestamp. It lives in a process of its own: see `service`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from rayloom.errors import UserError
from rayloom.files import write_json
from rayloom.redaction import redacted_url
from rayloom.tracking import journal
from rayloom.tracking.journal import Acknowledgement, Record
from rayloom.tracking.location import known_uri
from rayloom.tracking.writer.log import say

if TYPE_CHECKING:
    from rayloom.tracking.writer.mlflow_store import MetricPoint, Store
    from rayloom.tracking.writer.system import SystemSampler

POLL_S = 0.25
LONGEST_PAUSE_S = 5.0
_MOST_SYSTEM_POINTS = 20_000


class Writer:
    """Carries one journal. Holds the run's writer lock for as long as it lives."""

    def __init__(self, run_dir: Path, driver_pid: int | None, drain_s: float) -> None:
        """Serve the journal of a driver that is this process's parent, or of a dead one (None)."""
        self._run_dir = run_dir
        self._driver_pid = driver_pid
        self._drain_s = drain_s
        self._session = journal.owner(run_dir)["session"]
        last = journal.last_start(run_dir)
        assert last is not None, "a writer starts after the start record"
        self._start, self._start_end = last
        self._acknowledged = Acknowledgement.load(run_dir)
        self._store: Store | None = None
        self._sampler: SystemSampler | None = None
        self._system: list[MetricPoint] = []
        self._deadline: float | None = None
        self._may_have_twins = True
        self._later: tuple[Record, int] | None = None
        self.exit: int | None = None
        """Exit code, once there is nothing left to do."""
        self.held = False
        """The run must not end yet: `finish` and the driver's death are left for later."""

    def run(self) -> int:
        """Serve until the run is over; return 0, journal.GAVE_UP or journal.DELETED."""
        from rayloom.tracking.writer.errors import UnreachableError

        if self.has_nothing_to_do():
            return 0
        pause = POLL_S
        while self.exit is None:
            if self.is_replaced():
                return 0
            try:
                self.serve()
                self.report(None)
                pause = POLL_S
            except UnreachableError as error:
                self.report(str(error))
                pause = min(2 * pause, LONGEST_PAUSE_S)
                self.give_up_in_time()
            if self.exit is None:
                time.sleep(pause)
        return self.exit

    def has_nothing_to_do(self) -> bool:
        """Tell whether MLflow has all of this run already."""
        return journal.is_delivered(self._run_dir) and self._acknowledged.offset >= self._start_end

    def is_replaced(self) -> bool:
        """Tell whether another process goes on with the run: it starts a writer of its own."""
        if journal.owner(self._run_dir)["session"] == self._session:
            return False
        say("another process goes on with this run: leaving the journal to its writer")
        return True

    def serve(self) -> None:
        """Send what there is; what the server refuses here, and not record by record, ends the writer."""
        from rayloom.tracking.writer.errors import RefusedError

        try:
            self._serve()
        except RefusedError as error:
            if self._store is None or not self._stop_if_deleted(self._store):
                self.report(f"this run cannot be delivered: {error}")
                self.exit = journal.GAVE_UP

    def _serve(self) -> None:
        gone = self._driver_is_gone()  # asked before reading, so that its last words are read
        store = self._store or self._attach()
        if self.exit is not None or self._carry(store) or self.exit is not None:
            return
        self._send_system(store)
        if gone and not self.held:
            self._end(store, "KILLED", int((self._run_dir / journal.JOURNAL).stat().st_mtime * 1000), "killed")

    def is_over(self) -> bool:
        """Tell whether the driver recorded the end of the run, or is gone."""
        return self._driver_is_gone() or journal.last_kind(self._run_dir) == "finish"

    def _driver_is_gone(self) -> bool:
        """A dead process has no children: ours is another one now. Unlike a pipe, no forked worker can keep it open."""
        return self._driver_pid is None or os.getppid() != self._driver_pid

    def _attach(self) -> Store:
        """Connect to the server and to the run; a new store, or a run that is gone from it, gets the whole journal."""
        binding = journal.read_binding(self._run_dir) or {}
        same_store = binding.get("uri") == self._start["uri"]
        store = self._open_store()
        if same_store and not self._may_create_again():
            store.run_id = binding["run_id"]
            if self._stop_if_deleted(store):  # only a user's own resume brings a deleted run back
                return store
        known = binding.get("run_id") if same_store else None
        created = store.attach(self._start, known, self._more_tags(), search=self._may_have_twins)
        if created or not same_store:
            self._acknowledged.offset = 0
        self._acknowledged.status = None
        self._acknowledged.save(self._run_dir)
        content = {"uri": redacted_url(store.uri), "experiment_id": store.experiment_id, "run_id": store.run_id}
        write_json(self._run_dir / journal.BINDING, content)
        self._store = store
        self._after_attach(store)
        return store

    def _open_store(self) -> Store:
        from rayloom.tracking.writer.mlflow_store import Store

        return Store(self._known_uri(), self._run_dir)

    def _known_uri(self) -> str:
        """Return the store's URI with its password; RefusedError where this process has none, and will have none."""
        from rayloom.tracking.writer.errors import RefusedError

        try:
            return known_uri(self._start["uri"])
        except UserError as error:
            raise RefusedError(str(error)) from None

    def _may_create_again(self) -> bool:
        """Tell whether a run that was deleted from the store is created once more."""
        return self._driver_pid is not None

    def _after_attach(self, store: Store) -> None:
        from rayloom.tracking.writer.stale import find_stale

        if self._driver_pid is None:
            return
        if self._start["system_metrics"]:
            from rayloom.tracking.writer.system import SystemSampler

            first, _ = next(journal.read_records(self._run_dir))
            self._sampler = SystemSampler(store.uri, store.run_id, int(first.get("time") or self._start["time"]))
        if find_stale(self._run_dir.parent):
            command = [sys.executable, "-P", "-m", "rayloom.tracking.writer.leftovers", str(self._run_dir.parent)]
            subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)

    def _carry(self, store: Store) -> bool:
        """Send the next records, acknowledging each batch; True when there were any."""
        from rayloom.tracking.writer.errors import METRICS_PER_BATCH

        points: list[MetricPoint] = []
        records = journal.read_some(self._run_dir, self._acknowledged.offset)
        before = sent = self._acknowledged.offset
        for record, end in records:
            if self.held and self._is_end(record, end):
                break
            if record["kind"] == "metrics":
                points += [(key, value, record["time"], record["step"]) for key, value in record["values"].items()]
            if points and (record["kind"] != "metrics" or len(points) >= METRICS_PER_BATCH):
                self._send_points(store, points)
                if self.exit is not None:
                    return True
                points = []
                self._acknowledge(end if record["kind"] == "metrics" else sent)
            if record["kind"] != "metrics":
                self._handle(store, record, end)
                if self.exit is not None:
                    return True
                self._acknowledge(end)
            sent = end
        if points:
            self._send_points(store, points)
            self._acknowledge(sent)
        return sent > before

    def _is_end(self, record: Record, end: int) -> bool:
        """Tell whether a record ends the run; the ends of earlier processes count no more."""
        return record["kind"] == "finish" and end > self._start_end

    def _acknowledge(self, offset: int) -> None:
        if offset > self._acknowledged.offset:
            self._acknowledged.offset = offset
            self._acknowledged.save(self._run_dir)

    def _send_points(self, store: Store, points: list[MetricPoint]) -> None:
        from rayloom.tracking.writer.errors import RefusedError

        try:
            for line in store.log_points(points):
                self.refused(line)
        except RefusedError:
            self._stop_if_deleted(store)

    def _send_system(self, store: Store) -> None:
        if self._sampler is not None:
            self._system += self._sampler.take()
        if self._system:
            self._send_points(store, self._system[-_MOST_SYSTEM_POINTS:])
            self._system = []

    def _handle(self, store: Store, record: Record, end: int) -> None:
        """Send one record that is no metric; what the server refuses is reported and left out."""
        from rayloom.tracking.writer.errors import RefusedError

        kind = record["kind"]
        if self._is_end(record, end):
            self._end(store, record["status"], record["time"], record["status"].lower(), end)
            return
        try:
            if kind == "start":
                self._log_start(store, record)
            elif kind == "tags":
                store.set_tags(record["tags"])
            elif kind == "data":
                store.log_data(record)
            elif kind == "file":
                name = Path(record["name"])
                folder = None if name.parent == Path() else name.parent.as_posix()
                store.log_file(self._run_dir / "artifacts" / name, folder)
            elif kind == "figure":
                from rayloom.tracking.pictures import draw_stored

                store.log_file(draw_stored(self._run_dir / f"{record['stem']}.npz"), f"figures/{record['name']}")
            elif kind == "model" and end > self._start_end:
                self._take_model(store, record, end)
            elif kind == "unreadable":
                say(f"the journal is damaged before byte {end}: one line is left out")
        except (RefusedError, FileNotFoundError) as error:
            if not self._stop_if_deleted(store):
                self.refused(f"{kind}: {error}")

    def _log_start(self, store: Store, record: Record) -> None:
        store.set_tags(
            {
                "mlflow.user": psutil.Process().username(),
                "mlflow.source.type": "LOCAL",
                "rayloom.host": socket.gethostname(),
                "rayloom.folder": str(self._run_dir),
                "rayloom.end": "running",
                **self._more_tags(),
                **record["tags"],
            }
        )
        if not record["params"]:
            return  # a command that adds to a run: it was trained elsewhere, and in another environment
        store.log_params(record["params"])
        self._log_environment(store)

    def _log_environment(self, store: Store) -> None:
        if self._driver_pid is not None:
            from rayloom.tracking.provenance import environment

            path = self._run_dir / "artifacts" / "environment.json"
            path.parent.mkdir(exist_ok=True)
            write_json(path, environment())
            store.log_file(path, None)

    def _more_tags(self) -> dict[str, str]:
        return {}

    def _end(self, store: Store, status: str, time_ms: int, word: str, end: int | None = None) -> None:
        """Send what belongs to the end of a run, then its status, then acknowledge both."""
        if self._sampler is not None:
            self._sampler.stop()
            self._send_system(store)
        self._log_overviews(store)
        store.set_tags({"rayloom.end": word})
        if self._may_have_twins and (twins := store.delete_twins(self._start["journal"])):
            say(f"deleted {twins} empty runs that the server had created late")
        store.terminate(status, time_ms)
        self._acknowledged.status = status
        if end is not None:
            self._acknowledged.offset = end
        self._acknowledged.problem = None
        self._acknowledged.save(self._run_dir)
        self._log_later(store)
        self.exit = 0

    def _log_overviews(self, store: Store) -> None:
        """Draw and send what shows the whole run: its curves, and figures over its steps."""
        from rayloom.tracking.animations import draw_animations
        from rayloom.tracking.pictures import draw_curves

        curves = self._run_dir / "curves.png"
        if draw_curves(journal.read_metrics(self._run_dir), curves):
            store.log_file(curves, None)
        for animation in draw_animations(self._run_dir):
            store.log_file(animation, animation.parent.relative_to(self._run_dir).as_posix())

    def _take_model(self, store: Store, record: Record, end: int) -> None:
        from rayloom.tracking.writer.model_export import log_model

        if record.get("wait", True):
            log_model(self._run_dir, store, record, end)
        else:
            self._later = (record, end)
            store.set_tags({"rayloom.model": "pending"})

    def _log_later(self, store: Store) -> None:
        """Log the model of a driver that did not want to wait for it; a failure is visible in tag and writer.log."""
        from rayloom.tracking.writer.errors import RefusedError, UnreachableError
        from rayloom.tracking.writer.model_export import log_model

        if self._later is None:
            return
        try:
            log_model(self._run_dir, store, *self._later)
        except (RefusedError, UnreachableError, FileNotFoundError) as error:
            say(f"the model is not logged: {error}")

    def refused(self, line: str) -> None:
        """Say in log and tag what the server did not take."""
        say(f"the server refused {line}")
        if self._store is not None:
            self._store.set_tags({"rayloom.refused": line})

    def _stop_if_deleted(self, store: Store) -> bool:
        if not store.is_deleted():
            return False
        say(f"somebody deleted the run {store.run_id} from {store.uri}: tracking stops, the journal stays")
        self._acknowledged.status = "DELETED"
        self._acknowledged.problem = "the run was deleted from the store"
        self._acknowledged.save(self._run_dir)
        self.exit = journal.DELETED
        return True

    def report(self, problem: str | None) -> None:
        """Say what is wrong, once; the Tracker reads it from the acknowledgement."""
        if self.exit is None and problem != self._acknowledged.problem:
            say(f"not delivered, trying again: {problem}" if problem else "delivering again")
            self._acknowledged.problem = problem
            self._acknowledged.save(self._run_dir)

    def give_up_in_time(self) -> None:
        """After the end of the run, stop trying when the time to drain is over."""
        if not self.is_over():
            return
        if self._deadline is None:
            self._deadline = time.monotonic() + self._drain_s
        if time.monotonic() >= self._deadline:
            say("giving up: the journal stays and is delivered at the next start in this output folder")
            self.exit = journal.GAVE_UP
