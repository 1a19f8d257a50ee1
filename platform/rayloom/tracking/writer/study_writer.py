"""The writer of a study: one process that carries the journals of the study and of all its trials to MLflow.

The trials are the folders STUDY/trials/*; each becomes a child run of the study's. Trials may be many and short, so
one connection serves them all, and what MLflow has whole is not read again: a trial that goes on later is noticed by
the size of its journal, at sweeps that take half a per cent of the time.
"""

from __future__ import annotations

import os
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayloom.tracking import journal
from rayloom.tracking.journal import Acknowledgement, Record
from rayloom.tracking.writer.log import say
from rayloom.tracking.writer.run_writer import LONGEST_PAUSE_S, POLL_S, Writer

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from rayloom.tracking.writer.mlflow_store import Store

TRIALS = "trials"
_PATIENCE_S = 10.0
_REST_FACTOR = 9.0  # a tenth of the time at work: the cores belong to the trials
_LISTING_S = 3.0
_SWEEP_S = 5.0
_SWEEP_FACTOR = 200.0


class Child(Writer):
    """Carries the journal of one trial; the host decides when it is called."""

    def __init__(self, run_dir: Path, parent_run_id: str, clients: dict[str, MlflowClient]) -> None:
        """Serve a trial of the study with this MLflow id; `clients` holds the connections that are open, by URI."""
        super().__init__(run_dir, driver_pid=None, drain_s=0.0)
        self._clients = clients
        process = journal.owner(run_dir)
        self._tags = {"mlflow.parentRunId": parent_run_id, "rayloom.host": process["host"]}
        self._is_first = not (run_dir / journal.ACKNOWLEDGEMENT).exists()
        self.closing = False
        """No more is to come: a trial that did not record its end was killed."""

    def has_news(self) -> bool:
        """Tell whether the journal is longer than what MLflow has."""
        return _size(self._run_dir) > self._acknowledged.offset

    def give_up(self, problem: str) -> None:
        """Leave the trial alone: what is wrong with it must not stop the others."""
        self.report(problem)
        self.exit = journal.GAVE_UP

    def is_trained_beside(self, driver: dict[str, Any]) -> bool:
        """Tell whether a living process of this machine trains the trial, and it is not the study's driver."""
        process = journal.owner(self._run_dir)
        return process["pid"] != driver["pid"] and journal.is_alive(process) is True

    @property
    def problem(self) -> str:
        """What was wrong last."""
        return self._acknowledged.problem or ""

    def _driver_is_gone(self) -> bool:
        return self.closing

    def _attach(self) -> Store:
        """Connect; the first attempt of all, and it alone, needs no search for what an earlier one may have created."""
        self._may_have_twins = not self._is_first
        if self._is_first:
            self._acknowledged.save(self._run_dir)
        self._is_first = False
        return super()._attach()

    def _open_store(self) -> Store:
        from rayloom.tracking.writer.mlflow_store import Store

        uri = self._known_uri()
        store = Store(uri, self._run_dir, self._clients.get(uri))
        self._clients[uri] = store.client
        return store

    def _may_create_again(self) -> bool:
        return self._start_end > self._acknowledged.offset

    def _more_tags(self) -> dict[str, str]:
        return self._tags

    def _handle(self, store: Store, record: Record, end: int) -> None:
        from rayloom.tracking.writer.errors import UnreachableError

        if self._is_end(record, end):
            super()._handle(store, record, end)
            return
        try:
            super()._handle(store, record, end)
        except UnreachableError:
            raise
        except Exception as error:  # noqa: BLE001  one bad record, shown in writer.log, costs no other
            traceback.print_exc()
            self.refused(f"{record['kind']}: {error!r}")

    def _after_attach(self, store: Store) -> None:
        """The host samples the machine and starts the reaper, once for all."""

    def _log_environment(self, store: Store) -> None:
        """The study has it."""

    def _log_overviews(self, store: Store) -> None:
        """MLflow draws the curves of trials itself, and there may be hundreds."""

    def _take_model(self, store: Store, record: Record, end: int) -> None:
        """Models of trials are not logged."""


class Host:
    """Serves a study and its trials. Holds the study's writer lock for as long as it lives."""

    def __init__(self, study_dir: Path, driver_pid: int | None, drain_s: float) -> None:
        """Serve the study of a driver that is this process's parent, or of a dead one (None)."""
        self._study_dir = study_dir
        self._parent = Writer(study_dir, driver_pid, drain_s)
        self._parent.held = True
        self._trials = Trials(study_dir / TRIALS)
        self._children: dict[str, Child] = {}
        self._clients: dict[str, MlflowClient] = {}
        self._closing = False
        self._patience: float | None = None
        self._exit: int | None = None

    def run(self) -> int:
        """Serve until the study is over; return 0, journal.GAVE_UP or journal.DELETED."""
        from rayloom.tracking.writer.errors import UnreachableError

        if self._parent.has_nothing_to_do():
            return 0
        backing_off = POLL_S
        while self._exit is None:
            if self._parent.is_replaced():
                return 0
            began = time.monotonic()
            try:
                self._turn()
                self._parent.report(None)
                backing_off = POLL_S
                pause = POLL_S if self._closing else _REST_FACTOR * (time.monotonic() - began)
            except UnreachableError as error:
                self._parent.report(str(error))
                pause = backing_off = min(2 * backing_off, LONGEST_PAUSE_S)
                self._parent.give_up_in_time()
                self._exit = self._parent.exit if self._parent.exit == journal.GAVE_UP else None
            if self._exit is None:
                self._rest(pause)
        return self._exit

    def _rest(self, pause_s: float) -> None:
        """Sleep, but not much longer than the study lasts."""
        end = time.monotonic() + min(pause_s, LONGEST_PAUSE_S)
        time.sleep(POLL_S)
        while time.monotonic() < end and (self._closing or not self._parent.is_over()):
            time.sleep(POLL_S)

    def _turn(self) -> None:
        """Serve the study, then its trials, and end the study when all of them have ended."""
        self._closing = self._parent.is_over()  # asked before reading, so that the last words are read
        if self._closing and self._patience is None:
            self._patience = time.monotonic() + _PATIENCE_S
        if self._parent.exit is None:
            self._parent.serve()
        if self._parent.exit == journal.GAVE_UP:
            self._exit = journal.GAVE_UP
            return
        if self._serve_children() and self._closing:
            self._parent.held = False
            while self._parent.exit is None:
                self._parent.serve()
            self._exit = self._parent.exit

    def _serve_children(self) -> bool:
        """Serve every trial once; True when none is left."""
        found = self._trials.find(thoroughly=self._closing)
        self._children |= {name: child for name in found if (child := self._open(name)) is not None}
        for name, child in list(self._children.items()):
            if self._parent.is_replaced():
                return False
            child.closing = self._closing and not self._may_go_on(child)
            if child.closing or child.has_news():
                self._serve_child(name, child)
        return not self._children

    def _open(self, name: str) -> Child | None:
        """Return what carries a trial's journal; None while the trial has not started, or has ended."""
        run_dir = self._study_dir / TRIALS / name
        try:
            if not self._trials.look(name):
                return None
            binding = journal.read_binding(self._study_dir)
            assert binding is not None, "a study is in MLflow before its trials are opened"
            return Child(run_dir, binding["run_id"], self._clients)
        except Exception as error:  # noqa: BLE001  a damaged folder must not stop the others
            traceback.print_exc()
            self._leave(name, repr(error))
            return None

    def _serve_child(self, name: str, child: Child) -> None:
        from rayloom.tracking.writer.errors import UnreachableError

        try:
            child.serve()
            child.report(None)
        except UnreachableError as error:
            child.report(str(error))
            self._children[name] = self._children.pop(name)  # next time the others come first
            raise
        except Exception as error:  # noqa: BLE001  our own bug, shown in writer.log, must not stop the others
            traceback.print_exc()
            child.give_up(repr(error))
        if child.exit is None:
            return
        del self._children[name]
        if child.exit == journal.GAVE_UP:
            self._leave(name, child.problem)
        elif (again := self._open(name)) is not None:
            self._children[name] = again

    def _leave(self, name: str, problem: str) -> None:
        """Go on without a trial, and say so in the study's run."""
        from rayloom.tracking.writer.errors import RefusedError

        say(f"leaving the trial {name}: {problem}")
        self._trials.settle(name)
        if self._parent.exit is not None:
            return
        try:
            self._parent.refused(f"trial {name}: {problem}")
        except RefusedError as error:
            say(f"the study's run does not take the tag: {error}")

    def _may_go_on(self, child: Child) -> bool:
        """After the study's end, tell whether the trial's own process still lives; it dies too, in a moment."""
        assert self._patience is not None
        driver = journal.owner(self._study_dir)
        return time.monotonic() < self._patience and child.is_trained_beside(driver)


class Trials:
    """Finds the trials of a study that need service, without reading those that were delivered."""

    def __init__(self, folder: Path) -> None:
        """Look into the folder whose folders are the trials; it may not be there yet."""
        self._folder = folder
        self._seen_ns = 0
        self._list_until = 0.0
        self._next_sweep = 0.0
        self._open: set[str] = set()
        self._waiting: set[str] = set()
        self._settled: dict[str, int] = {}

    def find(self, thoroughly: bool) -> list[str]:
        """Return the names of trials that are new, not started yet, or longer than when they were settled."""
        now = time.monotonic()
        names = self._new(now) | self._waiting
        if thoroughly or now >= self._next_sweep:
            names |= {name for name, size in self._settled.items() if _size(self._folder / name) > size}
            self._next_sweep = now + max(_SWEEP_S, _SWEEP_FACTOR * (time.monotonic() - now))
        return sorted(names)

    def _new(self, now: float) -> set[str]:
        """List the folder when it has changed, and for a while after that: its clock has coarse ticks."""
        try:
            changed_ns = self._folder.stat().st_mtime_ns
        except FileNotFoundError:
            return set()
        if changed_ns != self._seen_ns:
            self._seen_ns, self._list_until = changed_ns, now + _LISTING_S
        if now > self._list_until:
            return set()
        with os.scandir(self._folder) as entries:
            folders = {entry.name for entry in entries if entry.is_dir()}
        return folders - self._open - self._waiting - self._settled.keys()

    def look(self, name: str) -> bool:
        """Tell whether a trial has something to carry, and remember the answer."""
        self._forget(name)
        run_dir = self._folder / name
        size = _size(run_dir)
        start = _undelivered_start(run_dir)
        if start is None and Acknowledgement.load(run_dir).status is None:
            self._waiting.add(name)
        elif start is None or start["uri"] is None:
            self._settled[name] = size
        else:
            self._open.add(name)
        return name in self._open

    def settle(self, name: str) -> None:
        """Leave a trial alone until its journal grows."""
        self._forget(name)
        self._settled[name] = _size(self._folder / name)

    def _forget(self, name: str) -> None:
        self._open.discard(name)
        self._waiting.discard(name)
        self._settled.pop(name, None)


def _undelivered_start(run_dir: Path) -> Record | None:
    """Return the newest start of a trial unless MLflow has its end.

    Records that a killed process wrote after the trial's end wait until the trial goes on.
    """
    acknowledged = Acknowledgement.load(run_dir)
    if acknowledged.status is None:
        last = journal.last_start(run_dir)
        return last[0] if last else None
    if _size(run_dir) <= acknowledged.offset:
        return None
    starts = [record for record, _ in journal.read_records(run_dir, acknowledged.offset) if record["kind"] == "start"]
    return starts[-1] if starts else None


def _size(run_dir: Path) -> int:
    """Return the length of a trial's journal; 0 where there is none yet."""
    try:
        return (run_dir / journal.JOURNAL).stat().st_size
    except FileNotFoundError:
        return 0
