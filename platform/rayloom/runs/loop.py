"""The only training loop: advance, log, evaluate, checkpoint, stop. The same for every kind of learning.

    learner's role --counters, metrics--> loop --> tracker, checkpoints, observer
                   <--advance(schedule)--

Everything that changes the run (evaluations, barriers, stops) is decided by counters and metrics, never by a clock, so
that a resumed run repeats it exactly.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from rayloom.checkpoint.store import CheckpointStore
from rayloom.config.schema import Interval, RunConfig
from rayloom.contract import Findings, Input
from rayloom.errors import NotFiniteError, Process
from rayloom.runs.learner_role import Advance, Policy
from rayloom.runs.objectives import read_objectives
from rayloom.runs.observer import Observer, Report
from rayloom.runs.sameness import ORIGIN, SETTINGS, learnt_from
from rayloom.runs.schedule import Counters, Schedule, share_of_budget
from rayloom.timeline import OTHER, RunTimeline
from rayloom.tracking.tracker import Tracker


class Role(Protocol):
    """A learner's role as the loop sees it: the object itself, or a handle on an actor."""

    def counters(self) -> Counters: ...
    def updates_per_epoch(self) -> int | None: ...
    def samples_per_epoch(self) -> int | None: ...
    def advance(self, schedule: Schedule, pause_s: float = math.inf) -> Advance: ...
    def metrics(self) -> dict[str, float]: ...
    def evaluate(self) -> Findings: ...
    def policy(self) -> Policy: ...
    def begin_evaluation(self, policy: Policy) -> None: ...
    def findings(self, wait: bool) -> Findings | None: ...
    def barrier_and_state(self) -> dict[str, Any]: ...
    def load_state(self, state: Mapping[str, Any]) -> None: ...
    def start_from(self, inputs: Mapping[str, Input]) -> None: ...
    def first_not_finite(self) -> tuple[int, str] | None: ...
    def weights_sha256(self) -> str: ...
    def parameter_counts(self) -> dict[str, int]: ...
    def data(self) -> Mapping[str, str]: ...
    def events(self) -> list[str]: ...
    def processes(self) -> list[Process]: ...
    def can_grow(self) -> bool: ...
    def recover(self) -> str: ...
    def close(self) -> None: ...


def make_schedule(config: RunConfig, updates_per_epoch: int | None, samples_per_epoch: int | None = None) -> Schedule:
    """Return the run's schedule, with defaults that fit its budget."""
    budget = config.budget()

    def interval(text: str | int | None, key: str, parts: int | None) -> Interval | None:
        if text is not None:
            return Interval.parse(str(text), key)
        return share_of_budget(budget, parts, updates_per_epoch) if parts else None

    return Schedule(
        {
            "log": interval(config.tracking.every, "tracking.every", 100),
            "evaluate": interval(config.evaluate.settings.every, "evaluate.every", None),
            "checkpoint": interval(config.checkpoint.every, "checkpoint.every", 10),
        },
        budget,
        samples_per_epoch,
    )


@dataclass(frozen=True)
class Pending:
    """An evaluation that is being done beside the training."""

    policy: Policy
    step: int
    """Where its findings are logged."""

    def state_dict(self) -> dict[str, Any]:
        """Return it as plain data: whoever goes on from a checkpoint begins it anew."""
        return {"policy": self.policy.state_dict(), "step": self.step}

    @staticmethod
    def of_state(state: Mapping[str, Any]) -> Pending:
        """Return what `state_dict` was taken of."""
        return Pending(Policy.of_state(state["policy"]), int(state["step"]))


@dataclass(frozen=True)
class LoopStep:
    """What one call of `Loop.advance` did."""

    evaluated: bool
    """Whether an evaluation was due; its findings are in `Loop.metrics`, unless they come later."""
    stopped_by: str | None
    """The stopping condition that holds, if one does."""
    checkpointed: bool = False
    """Whether the whole state was saved at its end."""


class Loop:
    """Drives one run from where its role stands to a stopping condition."""

    def __init__(
        self,
        config: RunConfig,
        role: Role,
        tracker: Tracker,
        checkpoints: CheckpointStore,
        observer: Observer,
        beside: bool = False,
    ) -> None:
        """Stand at the start; with `beside` evaluations are done while the training goes on (`Plan.waits`)."""
        self._config = config
        self._beside = beside
        self.role = role
        self._tracker = tracker
        self._checkpoints = checkpoints
        self._observer = observer
        self.schedule = make_schedule(config, role.updates_per_epoch(), role.samples_per_epoch())
        self.timeline = RunTimeline()
        self.more_metrics: Mapping[str, float] = {}
        """Logged with the role's metrics, at the same steps."""
        self._started = time.perf_counter()
        self._announced = False
        self._endless_told = False
        self._missing_told: set[str] = set()
        self.rewind()
        self._objectives = read_objectives(config, role.parameter_counts())

    def rewind(self) -> None:
        """Stand at the start of the run, as a new role does."""
        self._restored = False
        self._pending: Pending | None = None
        self.metrics: dict[str, float] = {}
        self.evaluations = 0
        self.evaluated: dict[str, float] = {}
        self.best: float | None = None
        self.best_at = 0

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint's state."""
        self.role.load_state(state["role"])
        self.metrics = dict(state["metrics"])
        self.best, self.best_at = state["best"], int(state["best_at"])
        self.evaluations = int(state["evaluations"])
        self.evaluated = dict(state["evaluated"])
        self._restored = True
        if state["pending"] is not None:
            self._pending = Pending.of_state(state["pending"])
            self.role.begin_evaluation(self._pending.policy)

    def advance(self, pause_s: float = math.inf) -> LoopStep:
        """Train until something is due, and do it; or until `pause_s` seconds have passed, which changes nothing."""
        already = self.already_stopped()
        if already:
            return LoopStep(False, already)
        self.timeline.begin("train")
        advance = self.role.advance(self.schedule, pause_s)
        self.timeline.begin(OTHER)
        return self.handle(advance)

    def already_stopped(self) -> str | None:
        """Return the condition that held at the checkpoint just restored, of a run killed before it could say so."""
        restored, self._restored = self._restored, False
        return self._stopped(self.role.counters()) if restored else None

    def handle(self, advance: Advance) -> LoopStep:
        """Do what has become due: log, evaluate, checkpoint."""
        counters, due = advance.counters, advance.due
        stopped_by = advance.exhausted
        self._settle(wait=False)
        if "log" in due or "evaluate" in due or stopped_by:
            self.timeline.begin("log")
            self._log(counters)
        evaluated = "evaluate" in due or stopped_by is not None
        improved = False
        if evaluated:
            self.timeline.begin("evaluate")
            improved = self._evaluate(counters, last=stopped_by is not None)
            stopped_by = stopped_by or self._objectives.reached(self.metrics) or self._lost_patience()
            if stopped_by:
                self._settle(wait=True)
            self._tell_missing(counters)
        checkpointed = "checkpoint" in due or bool(stopped_by) or (improved and bool(self._config.checkpoint.best))
        if checkpointed:
            self.timeline.begin("checkpoint")
            self._checkpoint(counters, evaluated)
            if not stopped_by:
                self._tell_endless_episodes(counters)
        self.timeline.begin(OTHER)
        return LoopStep(evaluated, stopped_by, checkpointed)

    def _tell_endless_episodes(self, counters: Counters) -> None:
        """Say once that checkpoints, at which environments start anew, come before any episode has ended."""
        if self._endless_told or counters.get("episodes") != 0 or not counters.get("env_steps"):
            return
        self._endless_told = True
        every = self._config.checkpoint.every or "a tenth of the budget"
        self._observer.note(
            f"no episode has ended in {counters['env_steps']:,} env_steps, and environments start anew at every "
            f"checkpoint: if episodes are longer than that, raise checkpoint.every (now {every})"
        )

    def _tell_missing(self, counters: Counters) -> None:
        """Say once of each metric that decides over the run that an evaluation has passed without a value for it."""
        if self._pending is not None:
            return
        for name in sorted(self._objectives.metrics - self.metrics.keys() - self._missing_told):
            self._missing_told.add(name)
            self._observer.note(
                f"{name} is to stop this run or to choose its best checkpoint, and has no value yet after "
                f"{counters['updates']:,} updates and an evaluation: it is declared, but nothing has returned it"
            )

    def _stopped(self, counters: Counters) -> str | None:
        # The metrics of the last evaluation: a run stops by metrics at evaluations only.
        return self.schedule.exhausted(counters) or self._objectives.reached(self.evaluated) or self._lost_patience()

    def _lost_patience(self) -> str | None:
        return self._objectives.lost_patience(self.evaluations - self.best_at)

    def step_of(self, counters: Counters) -> int:
        """Return the x-axis of the metrics: environment steps where there are any, else updates."""
        return counters.get("env_steps", counters["updates"])

    def _log(self, counters: Counters) -> None:
        values = self.role.metrics()
        for event in self.role.events():
            self._observer.note(event)
        values.update(self.timeline.log(values))
        values.update(self.more_metrics)
        self.metrics.update(values)
        self._check_finite(values, counters["updates"])
        updates = counters["updates"]
        axes = {f"time/{unit}": float(count) for unit, count in counters.items()}
        self._tracker.log_metrics({**values, **axes}, self.step_of(counters), updates)
        self._report(counters)

    def _check_finite(self, metrics: Mapping[str, float], updates: int) -> None:
        """Raise NotFiniteError when a loss has become NaN or infinite: going on would only spoil the weights."""
        for name, value in metrics.items():
            if name.startswith("train/") and name.endswith("loss") and not math.isfinite(value):
                found = self.role.first_not_finite()
                raise self._not_finite(f"{name} is {value} at update {updates}" if found is None else found[1])

    def _not_finite(self, what: str) -> NotFiniteError:
        steps = self._checkpoints.steps()
        kept = f"the checkpoint of update {max(steps):,} is kept" if steps else "there is no checkpoint yet"
        return NotFiniteError(
            f"{what}; lower learner.optimizer.learning_rate or set learner.max_grad_norm, and look at those examples "
            f"({kept})"
        )

    def _evaluate(self, counters: Counters, last: bool) -> bool:
        """Judge the weights, or have them judged beside the training; return whether they are the best so far."""
        self._settle(wait=True)  # one at a time
        self.evaluations += 1
        self.evaluated = dict(self.metrics)
        if self._beside and not last:
            self._pending = Pending(self.role.policy(), self.step_of(counters))
            self.role.begin_evaluation(self._pending.policy)
        else:
            self._record(self.role.evaluate(), self.step_of(counters), counters["updates"])
        self._report(counters)
        value = self.metrics.get(self._objectives.best or "")
        improved = self._objectives.improves(value, self.best)
        if improved:
            self.best, self.best_at = value, self.evaluations
        return improved

    def _settle(self, wait: bool) -> None:
        """Record what the evaluation beside the training has found, if there is one, at the step of its weights."""
        if self._pending is None or (found := self.role.findings(wait)) is None:
            return
        pending, self._pending = self._pending, None
        self._record(found, pending.step, pending.policy.number)

    def _record(self, found: Findings, step: int, updates: int) -> None:
        self.metrics.update(found.metrics)
        self.evaluated.update(found.metrics)
        self._tracker.log_metrics(found.metrics, step, updates)
        for name, figure in found.figures.items():
            self._tracker.log_figure(name, figure, step)
        for name, content in found.files.items():
            self._tracker.log_content(f"evaluations/step_{step:09d}/{name}", content)

    def _checkpoint(self, counters: Counters, evaluated: bool) -> None:
        metric = self.metrics.get(self._objectives.best or "") if evaluated else None
        learnt = self.role.barrier_and_state()
        # Before it takes the place of a good one; losses since the last log step are known from here on.
        if found := self.role.first_not_finite():
            raise self._not_finite(found[1])
        state = {
            "role": learnt,
            "metrics": dict(self.metrics),
            "best": self.best,
            "best_at": self.best_at,
            "evaluations": self.evaluations,
            "evaluated": self.evaluated,
            "pending": None if self._pending is None else self._pending.state_dict(),
        }
        self._checkpoints.save(
            counters["updates"],
            state,
            metric=metric,
            metadata={
                "counters": dict(counters),
                SETTINGS: learnt_from(self._config),
                ORIGIN: self._tracker.identity,
            },
        )

    def _report(self, counters: Counters) -> None:
        if not self._announced:
            self._announce()
        fraction = self.schedule.fraction(counters)
        elapsed = time.perf_counter() - self._started
        self._observer.report(Report(dict(counters), dict(self.metrics), fraction, elapsed))

    def _announce(self) -> None:
        """Tell the run's id: MLflow's as soon as it is known, the folder's name when there is none to be had."""
        known = self._tracker.run_id
        if known is None and (not self._config.tracking.enabled or self._tracker.problem):
            known = self._tracker.run_dir.name
        if known:
            self._announced = True
            self._observer.run_id(known)

    @property
    def announced(self) -> bool:
        """Whether the observer knows the run id."""
        return self._announced
