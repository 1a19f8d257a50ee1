"""Trials as a process runs them: whole runs that stop at every evaluation and wait for the study's decision.

    driver --work(begin, decisions)--> TrialHost: [ session.advance ]* --events--> driver

The host is an object in the driver's process (`--local`), or lives in an actor that is used for one trial after the
other, so that imports and start-up are paid once. It does not know Optuna.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from rayloom.config.load import from_tree
from rayloom.config.schema import RunConfig
from rayloom.errors import UserError
from rayloom.redaction import redacted
from rayloom.runs.folders import RUN, write_config
from rayloom.runs.inputs import inputs_for
from rayloom.runs.loop import LoopStep, Role
from rayloom.runs.plan import Plan, make_plan
from rayloom.runs.record import Hosting, record_failed_start
from rayloom.runs.session import Session
from rayloom.runs.weights import checkpoint_store
from rayloom.search.population import Population
from rayloom.tracking.journal import JOURNAL

EventKind = Literal["report", "finished", "failed"]


@dataclass(frozen=True)
class Order:
    """One trial to run. Plain data, for it may travel to an actor."""

    number: int
    tree: Mapping[str, Any]
    """The whole config."""
    folder: str
    """The trial's run folder; what it holds already is continued."""
    tags: Mapping[str, str]
    """MLflow tags."""
    local: bool
    """Whether every role stays in the host's process."""


@dataclass(frozen=True)
class Event:
    """What a trial has to tell."""

    number: int
    kind: EventKind
    """report: there is an evaluation, and the trial waits; finished: with the last evaluation; failed."""
    evaluation: int = 0
    """Number of the evaluation in the trial, from 1."""
    metrics: Mapping[str, float] | None = None
    """The value of every metric at that evaluation."""
    fraction: float = 0.0
    """Share of the trial's budget that is spent."""
    counters: Mapping[str, int] | None = None
    """Updates, environment steps and so on so far."""
    stopped_by: str = ""
    failure: str = ""
    """The traceback."""
    error: str = ""
    """The exception in one line."""
    users: bool = False
    """Whether the exception is a UserError: a mistake in the config."""


RoleFactory = Callable[[RunConfig, Plan], Role]
"""Makes a trial's learner role, in this process or as actors."""
PruningDecisions = Mapping[int, bool]
"""Trial number to whether the trial is to be pruned."""


class TrialPool(Protocol):
    """Slots that run trials, one group of trials at a time in each."""

    slots: int

    def submit(self, slot: int, begin: Sequence[Order], decisions: PruningDecisions) -> None:
        """Let an idle slot begin trials, and judge those that wait there. Returns at once."""

    def wait(self, timeout_s: float) -> list[tuple[int, list[Event] | str]]:
        """Return the answers of slots that have worked: events, or why the slot died."""

    def close(self, decisions: PruningDecisions | None = None) -> None:
        """End all slots. An interrupted study gives its decisions: trials that were not pruned can go on later."""


class LocalTrialPool:
    """One slot in this process: trials run while the driver waits."""

    slots = 1

    def __init__(self, pause_s: float, make_role: RoleFactory) -> None:
        """Answer at least every `pause_s` seconds."""
        self._host = TrialHost(make_role)
        self._pause_s = pause_s
        self._task: tuple[Sequence[Order], PruningDecisions] | None = None

    def submit(self, slot: int, begin: Sequence[Order], decisions: PruningDecisions) -> None:
        """Remember what to do."""
        assert slot == 0 and self._task is None
        self._task = (begin, decisions)

    def wait(self, timeout_s: float) -> list[tuple[int, list[Event] | str]]:
        """Do it."""
        if self._task is None:
            return []
        task, self._task = self._task, None
        return [(0, self._host.work(*task, self._pause_s))]

    def close(self, decisions: PruningDecisions | None = None) -> None:
        """End the trial that runs."""
        self._host.close(decisions)


class TrialHost:
    """Runs one group of trials after the other in this process."""

    def __init__(self, make_role: RoleFactory) -> None:
        self._make_role = make_role
        self._group: TrialGroup | None = None

    def work(self, begin: Sequence[Order], decisions: PruningDecisions, pause_s: float) -> list[Event]:
        """Decide on the trials that wait, begin others, and train until one has something to tell.

        Returns no events when `pause_s` seconds have passed or no trial is left. An exception of a trial is an event;
        an exception of the host itself passes through.
        """
        if self._group is not None:
            self._group.decide(decisions)
            if not self._group.members:
                self._leave()
        events: list[Event] = []
        if begin:
            assert self._group is None, "a host has one group of trials at a time"
            self._group = TrialGroup(self._make_role)
            events = self._group.open(begin)
        if self._group is not None and not events:
            events = self._group.advance(time.monotonic() + pause_s)
        if self._group is not None and not self._group.members:
            self._leave()
        return events

    def _leave(self) -> None:
        assert self._group is not None
        group, self._group = self._group, None
        group.close()
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()

    def close(self, decisions: PruningDecisions | None = None) -> None:
        """Give up the trials that run: they are recorded as interrupted, and can be continued.

        An interruption may come between a pruning decision and its execution; `decisions` are carried out first.
        """
        if self._group is not None:
            if decisions is not None:
                self._group.decide(decisions)
                self._group.interrupt()
            self._leave()


class TrialGroup:
    """Trials that train in lockstep as a population, or one trial alone."""

    def __init__(self, make_role: RoleFactory) -> None:
        self._make_role = make_role
        self.members: dict[int, Session] = {}
        self._roles: dict[int, Role] = {}
        self._index: dict[int, int] = {}
        self._population: Population | None = None

    def open(self, orders: Sequence[Order]) -> list[Event]:
        """Build the trials' roles and sessions; return the events of those that failed at it or had ended."""
        events: list[Event] = []
        configs: dict[int, RunConfig] = {}
        for order in orders:
            try:
                configs[order.number] = from_tree(order.tree)
            except UserError as error:  # values that are right one by one may not fit together
                events.append(_failure(order.number, error))
        orders = [order for order in orders if order.number in configs]
        if not orders:
            return events
        try:
            self._make_roles(orders, configs)
        except Exception as error:  # noqa: BLE001  whatever an algorithm raises belongs to its trials
            return events + [_failed_start(order, configs[order.number], error) for order in orders]
        for order in orders:
            try:
                events += self._open_session(order, configs[order.number])
            except Exception as error:  # noqa: BLE001
                known = order.number in self.members
                events.append(
                    self._fail(order.number, error) if known else _failed_start(order, configs[order.number], error)
                )
        return events

    def _make_roles(self, orders: Sequence[Order], configs: Mapping[int, RunConfig]) -> None:
        if len(orders) == 1:
            order = orders[0]
            config = configs[order.number]
            self._roles[order.number] = self._make_role(config, make_plan(config, order.local))
            return
        self._population = Population([configs[order.number] for order in orders])
        for index, order in enumerate(orders):
            self._roles[order.number] = self._population.roles[index]
            self._index[order.number] = index

    def _open_session(self, order: Order, config: RunConfig) -> list[Event]:
        """Begin a trial, or continue it; return what a driver that died may not have heard."""
        folder, resumed = _prepare(order)
        plan = make_plan(config, order.local)
        loaded = checkpoint_store(config, folder).load_latest() if resumed else None
        role, hosting = self._roles[order.number], Hosting(order.tags)
        inputs_for(config, folder)
        session = Session(config, plan, role, folder, resumed=resumed, hosting=hosting, loaded=loaded)
        self.members[order.number] = session
        if loaded is None:
            session.begin()
            return []
        session.restore(loaded)
        # The evaluation before the checkpoint once more: its decision may have been lost on the way.
        return self._tell(order.number, LoopStep(session.loop.evaluations > 0, session.loop.already_stopped()))

    def decide(self, decisions: PruningDecisions) -> None:
        """End the trials that the study prunes."""
        for number, prune in decisions.items():
            session = self.members.get(number)
            if session is None or not prune:
                continue
            reason = f"pruned at evaluation {session.loop.evaluations}"
            session.end("KILLED", reason, {"rayloom.trial_state": "PRUNED", "rayloom.stopped_by": reason})
            self._forget(number)

    def advance(self, resume_at: float) -> list[Event]:
        """Train until a trial evaluates, stops or fails; return nothing at the time `resume_at`."""
        while True:
            pause_s = max(0.0, resume_at - time.monotonic())
            events = self._advance_population(pause_s) if self._population else self._advance_single(pause_s)
            if events or time.monotonic() >= resume_at:
                return events

    def _advance_single(self, pause_s: float) -> list[Event]:
        ((number, session),) = self.members.items()
        try:
            return self._tell(number, session.advance(pause_s))
        except Exception as error:  # noqa: BLE001
            return [self._fail(number, error)]

    def _advance_population(self, pause_s: float) -> list[Event]:
        assert self._population is not None
        events: list[Event] = []
        schedules = {self._index[number]: session.loop.schedule for number, session in self.members.items()}
        try:
            advances = self._population.advance(schedules, pause_s)
        except Exception as error:  # noqa: BLE001
            return [self._fail(number, error) for number in list(self.members)]
        for number, session in list(self.members.items()):
            advance = advances.get(self._index[number])
            if advance is None:
                continue
            try:
                events += self._tell(number, session.loop.handle(advance))
            except Exception as error:  # noqa: BLE001
                events.append(self._fail(number, error))
        return events

    def _tell(self, number: int, step: LoopStep) -> list[Event]:
        """Return what the study wants to know of a step, and end a trial that has stopped."""
        session = self.members[number]
        if not step.evaluated and step.stopped_by is None:
            return []
        loop = session.loop
        counters = session.role.counters()
        event = Event(
            number,
            "report" if step.stopped_by is None else "finished",
            loop.evaluations,
            loop.evaluated,
            loop.schedule.fraction(counters),
            counters,
            step.stopped_by or "",
        )
        if step.stopped_by is not None:
            session.tracker.set_tags({"rayloom.trial_state": "COMPLETE"})
            session.finish(session.result(step.stopped_by))
            self._forget(number)
        return [event]

    def _fail(self, number: int, error: Exception) -> Event:
        session = self.members.get(number)
        if session is not None:
            session.end("FAILED", "an exception", {"rayloom.trial_state": "FAILED"})
            self._forget(number)
        return _failure(number, error)

    def _forget(self, number: int) -> None:
        del self.members[number]
        if self._population is not None:
            self._population.drop(self._index[number])

    def interrupt(self) -> None:
        """Record that the trials were interrupted."""
        for session in self.members.values():
            session.end("KILLED", "interrupted")

    def close(self) -> None:
        """Close environments and workers."""
        if self._population is not None:
            self._population.close()
            return
        for role in self._roles.values():
            role.close()


def _prepare(order: Order) -> tuple[Path, bool]:
    """Return the trial's folder, with its config in it, and whether the trial was begun before."""
    folder = Path(order.folder)
    folder.mkdir(parents=True, exist_ok=True)
    resumed = (folder / JOURNAL).exists()
    if not resumed:
        write_config(folder / RUN, from_tree(order.tree))
    return folder, resumed


def _failed_start(order: Order, config: RunConfig, error: Exception) -> Event:
    record_failed_start(config, _prepare(order)[0], Hosting(order.tags))
    return _failure(order.number, error)


def _failure(number: int, error: Exception) -> Event:
    line = redacted((str(error).splitlines() or [""])[0])
    users = isinstance(error, UserError)
    name = "" if users else f"{type(error).__name__}: "
    failure = redacted("".join(traceback.format_exception(error)))
    return Event(number, "failed", failure=failure, error=f"{name}{line}", users=users)
