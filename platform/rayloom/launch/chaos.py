"""Faults on purpose: a run's processes and nodes are struck with a seed, and what became of each is told.

    rayloom run CONFIG --chaos "rollout=6/min,learner=1,tracker=1,node=1"

    Session.train --between short advances--> Chaos.strike --signals--> rollout workers, learners, evaluator, tracker

Victims are drawn from the seed tree, and so are the moments: shares of the run's budget for a count, exponential gaps
by the clock for a rate. A fault is survived once its victim's place is no longer the victim's.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from rayloom.config.import_path import suggest
from rayloom.config.schema import RunConfig
from rayloom.errors import Process, UserError
from rayloom.runs.plan import Plan
from rayloom.seeding import numpy_generator

_WRITER_DEADLINE_S = 5.0
_SHARES = (0.05, 0.95)
_NOUNS = {
    "rollout": "rollout worker",
    "hang": "hung rollout worker",
    "learner": "learner",
    "evaluator": "evaluator",
    "tracker": "tracker",
    "node": "node",
}
_REPLACED = {**_NOUNS, "hang": "rollout worker", "learner": "group of learners"}
_METRIC = "faults/struck_"


class Target(Protocol):
    """The role of a run, as far as it can be struck."""

    def processes(self) -> list[Process]: ...


class WriterTarget(Protocol):
    """The tracker of a run, as far as it can be struck."""

    def writer(self) -> int | None: ...


@dataclass(frozen=True)
class Fault:
    """How often one kind of fault is wanted: so many times over the run, or a rate."""

    role: str
    count: int | None = None
    per_minute: float | None = None


@dataclass(frozen=True)
class Strike:
    """One fault that was injected."""

    role: str
    victim: Process | int | str
    """A role's process, the process id of the tracker's writer, or the id of a node."""

    def answered(self, processes: Sequence[Process], writer: int | None) -> bool:
        """Return whether the run goes on without the victim."""
        if self.role == "tracker":
            return writer is not None and writer != self.victim
        if self.role == "node":
            return bool(processes) and all(process.node_id != self.victim for process in processes)
        if self.role == "evaluator":  # a dead one does not answer, so that it is not among the processes either
            return any(process.role == "evaluator" and process != self.victim for process in processes)
        return self.victim not in processes


def parse(spec: str) -> tuple[Fault, ...]:
    """Read "rollout=6/min,learner=1"; UserError with a suggestion for what is no role."""
    faults: dict[str, Fault] = {}
    for part in spec.split(","):
        role, _, amount = (text.strip() for text in part.partition("="))
        if role not in _NOUNS:
            raise UserError(f"--chaos: there is no role {role!r} to strike{suggest(role, _NOUNS)}")
        if role in faults:
            raise UserError(f"--chaos: {role} is given twice; write it once")
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(\s*/\s*min)?", amount)
        if not match or float(match[1]) <= 0 or (not match[2] and "." in match[1]):
            wanted = f"write {role}=2 for twice in the run or {role}=2/min for a rate"
            raise UserError(f"--chaos: {wanted}, not {part.strip()!r}")
        faults[role] = Fault(role, per_minute=float(match[1])) if match[2] else Fault(role, count=int(match[1]))
    return tuple(faults.values())


def check_plan(faults: Iterable[Fault], config: RunConfig, plan: Plan, local: bool) -> None:
    """Raise UserError for faults that cannot befall this plan."""
    places = {role.name: role.place for role in plan.roles}
    obstacles = {
        "rollout": "" if places.get("rollout") == "actor" else "there are no rollout actors (source.rollout_workers)",
        "learner": "" if places["learner"] == "actor" else "the learner is in the driver's process (cluster.learner)",
        "evaluator": ""
        if places["evaluator"] == "actor"
        else "evaluations are in the driver's process (cluster.evaluator)",
        "tracker": "" if config.tracking.enabled else "tracking.enabled is false",
        "node": "" if plan.uses_ray else "the run has no Ray actors",
    }
    obstacles["hang"] = obstacles["rollout"]
    for fault in faults:
        reason = "with --local everything is in this process" if local else obstacles[fault.role]
        if not reason and fault.role == "node" and not _may_have_nodes(config):
            reason = "the run's own Ray has one node, the driver's (cluster.address)"
        if reason:
            raise UserError(f"--chaos: {fault.role} cannot be struck: {reason}; leave {fault.role} out or change that")


def _may_have_nodes(config: RunConfig) -> bool:
    from rayloom.cluster.nodes.node_faults import is_connected

    return bool(config.cluster.address or os.environ.get("RAY_ADDRESS")) or is_connected()


class Chaos:
    """Strikes the roles of one run. Used by the driver's main thread."""

    def __init__(self, spec: str, seed: int) -> None:
        """Draw the moments of every fault in `spec`, from the tree of the run's `seed`."""
        self.spec = spec
        self.faults = parse(spec)
        self._seed = seed
        self._generators = {fault.role: numpy_generator(seed, "chaos", fault.role) for fault in self.faults}
        self._shares = {
            fault.role: deque(np.sort(self._generators[fault.role].uniform(*_SHARES, fault.count)).tolist())
            for fault in self.faults
            if fault.count is not None
        }
        self._rates = {fault.role: fault.per_minute for fault in self.faults if fault.per_minute is not None}
        self._next_at: dict[str, float] = {}
        self._open: list[Strike] = []
        self._struck = {fault.role: 0 for fault in self.faults}
        self._replaced = {fault.role: 0 for fault in self.faults}
        self.metrics: dict[str, float] = {f"{_METRIC}{fault.role}": 0.0 for fault in self.faults}
        """How often each role was struck so far; the same mapping throughout the run."""

    def check_nodes(self, role: Target) -> None:
        """Raise UserError when a node is to be struck, and only the driver's carries roles."""
        if any(fault.role == "node" for fault in self.faults) and not _nodes(role.processes()):
            raise UserError(
                "--chaos: node cannot be struck: only the driver's node carries roles; leave node out, or spread the "
                "roles over several nodes (cluster.placement)"
            )

    def strike(self, role: Target, tracker: WriterTarget, fraction: float, spare: int) -> list[str]:
        """Strike who is due when `fraction` of the budget is spent, and tell it.

        `spare` is how many more losses of learners the run would survive before its next checkpoint.
        """
        due = {fault.role: self._due(fault.role, fraction) for fault in self.faults}
        if not self._open and not any(due.values()):
            return []
        processes = role.processes()
        self._look(processes, tracker.writer())
        notes = []
        for name, number in due.items():
            for _ in range(number):
                victim = self._choose(name, processes, tracker, spare)
                if victim is None:
                    break  # it stays due
                self._hit(Strike(name, victim))
                self._done(name)
                notes.append(f"chaos: struck {_describe(name, victim)}")
        return notes

    def _due(self, role: str, fraction: float) -> int:
        if role in self._shares:
            return sum(share <= fraction for share in self._shares[role])
        now = time.monotonic()
        if role not in self._next_at:
            self._next_at[role] = now + self._gap_s(role)
        return int(now >= self._next_at[role])

    def _gap_s(self, role: str) -> float:
        return float(self._generators[role].exponential(60.0 / self._rates[role]))

    def _done(self, role: str) -> None:
        if role in self._shares:
            self._shares[role].popleft()
        else:
            self._next_at[role] += self._gap_s(role)
        self._struck[role] += 1
        self.metrics[f"{_METRIC}{role}"] += 1.0

    def _choose(
        self, role: str, processes: list[Process], tracker: WriterTarget, spare: int
    ) -> Process | int | str | None:
        """Return a victim that was not struck already; None when there is none at the moment."""
        waiting = {strike.role for strike in self._open}
        if role in ("evaluator", "tracker") and role in waiting:
            return None
        if role in ("learner", "node") and (spare < 1 or waiting & {"learner", "node"}):
            return None
        if role == "tracker":
            return tracker.writer()
        candidates: Sequence[Process | str]
        if role == "node":
            candidates = _nodes(processes)
        else:
            wanted = "rollout" if role == "hang" else role
            struck = [strike.victim for strike in self._open]
            candidates = [process for process in processes if process.role == wanted and process not in struck]
        return candidates[int(self._generators[role].integers(len(candidates)))] if candidates else None

    def _hit(self, strike: Strike) -> None:
        victim = strike.victim
        if isinstance(victim, int):
            os.kill(victim, signal.SIGKILL)
        elif isinstance(victim, str):
            from rayloom.cluster.nodes.node_faults import strike_node

            strike_node(victim)
        else:
            from rayloom.cluster.nodes.processes import strike as send

            send(victim, signal.SIGSTOP if strike.role == "hang" else signal.SIGKILL)
        self._open.append(strike)

    def _look(self, processes: Sequence[Process], writer: int | None) -> None:
        """See which faults were survived in the meantime."""
        for strike in list(self._open):
            if strike.answered(processes, writer):
                self._open.remove(strike)
                self._replaced[strike.role] += 1

    def conclude(self, role: Target, tracker: WriterTarget) -> None:
        """Look a last time, while the roles are still there."""
        if not self._open:
            return
        processes = role.processes()
        deadline = time.monotonic() + _WRITER_DEADLINE_S
        self._look(processes, tracker.writer())
        while any(strike.role == "tracker" for strike in self._open) and time.monotonic() < deadline:
            time.sleep(0.1)
            self._look(processes, tracker.writer())

    # --- what is told ----------------------------------------------------------------------------------------------

    @property
    def tag(self) -> str:
        """What was ordered, and the seed."""
        return f"{self.spec} (seed {self._seed})"

    def report(self) -> dict[str, Any]:
        """Return how many were struck and replaced, are unanswered, and were spared by the run's end, each by role."""
        unanswered = Counter(strike.role for strike in self._open)
        spared = {role: len(shares) for role, shares in self._shares.items() if shares}
        return {
            "spec": self.spec,
            "seed": self._seed,
            "struck": dict(self._struck),
            "replaced": dict(self._replaced),
            "unanswered": {role: unanswered[role] for role in self._struck if unanswered[role]},
            "not_struck": spared,
        }

    def summary(self) -> str:
        """Return the report as one line."""
        report = self.report()
        replaced: Counter[str] = Counter()
        for role, number in self._replaced.items():
            replaced[_REPLACED[role]] += number
        parts = [
            ("struck", _list(self._struck.items(), _NOUNS) or "nobody"),
            ("replaced", _list(item for item in replaced.items() if item[0] != "node")),
            ("went on without", _list(item for item in replaced.items() if item[0] == "node")),
            ("unanswered at the end:", _list(report["unanswered"].items(), _NOUNS)),
            ("the run ended before striking", _list(report["not_struck"].items(), _NOUNS)),
        ]
        return "chaos: " + "; ".join(f"{words} {what}" for words, what in parts if what)


def _nodes(processes: Iterable[Process]) -> list[str]:
    """Return the nodes that carry roles but not the driver, in order of their first process."""
    from rayloom.cluster.nodes.node_faults import driver_node

    found = dict.fromkeys(process.node_id for process in processes if process.node_id is not None)
    return [node for node in found if node != driver_node()]


def _describe(role: str, victim: Process | int | str) -> str:
    if isinstance(victim, Process):
        verb = "with SIGSTOP" if role == "hang" else "with SIGKILL"
        return f"{_NOUNS[victim.role]} {victim.index} {verb} (process {victim.pid})"
    return f"the tracker's writer (process {victim})" if isinstance(victim, int) else f"node {victim[:8]}"


def _list(numbers: Iterable[tuple[str, int]], nouns: Mapping[str, str] | None = None) -> str:
    """Return "12 rollout workers, 1 learner", without those of which there are none."""
    parts = []
    for role, number in numbers:
        first, *rest = (nouns[role] if nouns else role).split(" of ")
        noun = " of ".join([first if number == 1 else f"{first}s", *rest])
        if number:
            parts.append(f"{number} {noun}")
    return ", ".join(parts)
