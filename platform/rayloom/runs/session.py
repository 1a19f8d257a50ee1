"""One run in progress: its role, tracker and loop, with a true end whatever happens.

    plan, role, folder -> Session --advance--> ... --finish or end--> result.json, terminal status in MLflow

`execution` drives one session to its end; a trial of a search is a session that its study drives from outside.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from rayloom.checkpoint.store import Loaded
from rayloom.config.schema import RunConfig
from rayloom.errors import LearnersLostError, UserError
from rayloom.redaction import redacted_url
from rayloom.runs.advice import advise
from rayloom.runs.folders import forget_result, mark_local, write_result
from rayloom.runs.inputs import inputs_for
from rayloom.runs.loop import Loop, LoopStep, Role
from rayloom.runs.observer import Observer, Result
from rayloom.runs.plan import Plan
from rayloom.runs.record import DESCRIPTION, Hosting, described, start_run_tracker
from rayloom.runs.sameness import ORIGIN, check_origin, check_same
from rayloom.runs.weights import checkpoint_store
from rayloom.tracking.journal import read_identity
from rayloom.tracking.tracker import Tracker

_PATIENCE_S = 60.0  # wait for a tracking server that answers
_IMPATIENCE_S = 5.0  # and for one that does not: the writer goes on without us
PAUSE_S = 0.5
"""Time between two looks at which injected fault is due (seconds)."""


class InjectedFaults(Protocol):
    """Faults on purpose, as a session sees them; `rayloom.launch.chaos.Chaos` is one."""

    metrics: dict[str, float]

    @property
    def tag(self) -> str: ...
    def strike(self, role: Role, tracker: Tracker, fraction: float, spare: int) -> list[str]: ...
    def conclude(self, role: Role, tracker: Tracker) -> None: ...
    def report(self) -> dict[str, Any]: ...
    def summary(self) -> str: ...


class Session:
    """One run in progress. The caller drives it with `advance` and ends it with `finish` or `end`, once."""

    def __init__(
        self,
        config: RunConfig,
        plan: Plan,
        role: Role,
        folder: Path,
        observer: Observer | None = None,
        *,
        resumed: bool = False,
        hosting: Hosting | None = None,
        chaos: InjectedFaults | None = None,
        loaded: Loaded | None = None,
    ) -> None:
        """Open the folder's journal; with `hosting` a study's writer process carries it to MLflow.

        `train` lets `chaos` strike on the way. `loaded` is the checkpoint from which a run goes on: UserError when
        another run made it.
        """
        if hosting is not None:
            plan = replace(plan, waits="a study decides on every evaluation")
        self.config = config
        self.folder = folder
        self.role = role
        self._observer = observer or Observer()
        self._hosting = hosting
        if loaded is not None:
            check_same(config, loaded)
            check_origin(loaded, read_identity(folder))
        identity = None if loaded is None else loaded.metadata.get(ORIGIN)
        # First: it takes the folder, or refuses.
        self.tracker = start_run_tracker(config, folder, resumed, hosting, identity)
        if not plan.uses_ray:
            mark_local(folder)
        forget_result(folder)
        self._observer.started(config, plan, folder)
        if not resumed:
            counts = "\n".join(f"{name}: {count:,}" for name, count in role.parameter_counts().items())
            self.tracker.log_text("plan.txt", f"{plan.describe()}\n\ntrained parameters\n{counts}\n")
            if data := role.data():
                self.tracker.log_data(data)
        self._losses = 0  # of learners, since the last checkpoint
        store = checkpoint_store(config, folder)
        self.loop = Loop(config, role, self.tracker, store, self._observer, beside=plan.waits is None)
        self._chaos = chaos
        if chaos is not None:
            self.loop.more_metrics = chaos.metrics
            self.tracker.set_tags({"rayloom.chaos": chaos.tag})

    def restore(self, loaded: Loaded) -> None:
        """Continue from a checkpoint."""
        self.loop.restore(loaded.state)

    def begin(self) -> None:
        """Begin the run, or begin it again where it was lost before its first checkpoint."""
        inputs = inputs_for(self.config, self.folder)
        if inputs:
            self.role.start_from(inputs)

    def advance(self, pause_s: float = math.inf) -> LoopStep:
        """Train until something is due, and do it; or until `pause_s` seconds have passed.

        Learners that are lost are replaced on the way, and the run goes on from its last checkpoint.
        """
        try:
            step = self.loop.advance(pause_s)
            if step.checkpointed and not step.stopped_by and self.role.can_grow():
                self._regroup("there is room for more learners")
        except LearnersLostError as error:
            self._recover(error)
            return LoopStep(False, None)
        if step.checkpointed:
            self._losses = 0
        return step

    def train(self) -> Result:
        """Train to a stopping condition."""
        while True:
            stopped_by = self.advance(math.inf if self._chaos is None else PAUSE_S).stopped_by
            try:
                if self._chaos is not None:
                    self._strike(self._chaos, last=stopped_by is not None)
                if stopped_by:
                    return self.result(stopped_by)
            except LearnersLostError as error:
                self._recover(error)

    def _strike(self, chaos: InjectedFaults, last: bool) -> None:
        """Let chaos strike; at the end of the run it only looks at what it has done."""
        if last:
            chaos.conclude(self.role, self.tracker)
            return
        fraction = self.loop.schedule.fraction(self.role.counters())
        spare = self.config.cluster.tries - 1 - self._losses
        for note in chaos.strike(self.role, self.tracker, fraction, spare):
            self._observer.note(note)

    def _recover(self, error: LearnersLostError) -> None:
        """Go on with new learners, unless they were lost too often since the last checkpoint."""
        while True:
            self._losses += 1
            if self._losses >= self.config.cluster.tries:
                raise error
            try:
                self._regroup(" ".join(str(error).split())[:300])
                return
            except LearnersLostError as another:
                error = another

    def _regroup(self, reason: str) -> None:
        """Make new learners, as many as there is room for, and continue from the last checkpoint."""
        self.loop.timeline.begin("recover")
        learners = self.role.recover()
        self.loop.rewind()
        self.tracker.rewind()
        loaded = checkpoint_store(self.config, self.folder).load_latest()
        if loaded is None:
            self.begin()
        else:
            self.loop.restore(loaded.state)
        self._observer.note(f"{reason}: {learners} go on from the last checkpoint")

    def result(self, stopped_by: str) -> Result:
        """Return what the role has to say once a stopping condition is reached."""
        return Result(
            run_id="",
            status="FINISHED",
            metrics=self.loop.metrics,
            counters=self.role.counters(),
            weights_sha256=self.role.weights_sha256(),
            run_dir=self.folder,
            tracking_uri=redacted_url(self.config.tracking.uri or ""),
            stopped_by=stopped_by,
            advice=advise(self.config, self.loop.timeline.spent()),
            chaos=None if self._chaos is None else self._chaos.report(),
        )

    def finish(self, result: Result) -> Result:
        """Record the result, and return it with the run's id."""
        tracker, observer, tracking = self.tracker, self._observer, self.config.tracking
        tracker.set_tags({"rayloom.weights_sha256": result.weights_sha256, "rayloom.stopped_by": result.stopped_by})
        tracker.set_tags({DESCRIPTION: described(self.config, self.folder, result)})
        if result.advice:
            tracker.set_tags({"rayloom.runs.advice": result.advice})
        self._tell_chaos()
        if self._hosting is None:
            tracker.log_model(self.folder, wait=tracking.wait_for_model)
        delivered = tracker.finish("FINISHED", timeout_s=self._patience_s())
        result = replace(result, run_id=tracker.run_id or self.folder.name)
        write_result(
            self.folder,
            {
                "status": "FINISHED",
                "stopped_by": result.stopped_by,
                "counters": result.counters,
                "metrics": {name: repr(value) for name, value in result.metrics.items()},
                "weights_sha256": result.weights_sha256,
                "advice": result.advice,
                **({"chaos": dict(result.chaos)} if result.chaos else {}),
            },
        )
        if not delivered and tracking.enabled:
            problem = tracker.problem or "it is slow"
            observer.note(
                f"MLflow has not got everything yet ({problem}): the next run in this output folder sends the rest"
            )
        if not self.loop.announced:
            observer.run_id(result.run_id)
        observer.finished(result)
        return result

    def end(self, status: str, reason: str, tags: Mapping[str, str] | None = None) -> None:
        """Record that the run ended before a stopping condition was reached; FAILED takes the traceback with it.

        A full disk must not hide the exception that is on its way to the user.
        """
        try:
            if status == "FAILED":
                self.tracker.log_text("traceback.txt", traceback.format_exc())
            if tags:
                self.tracker.set_tags(tags)
            self.tracker.set_tags({DESCRIPTION: described(self.config, self.folder, ended=f"{status} ({reason})")})
            self._tell_chaos()
            if status == "KILLED" and self.config.tracking.enabled and self._hosting is None:
                self._observer.note("stopping: MLflow gets what it has not got yet")
            self.tracker.finish(status, timeout_s=self._patience_s())
            write_result(self.folder, {"status": status, "stopped_by": reason})
        except (UserError, OSError) as error:
            self._observer.note(f"the end of the run could not be recorded: {error}")

    def _tell_chaos(self) -> None:
        if self._chaos is not None:
            self._observer.note(self._chaos.summary())
            self.tracker.set_tags({"rayloom.chaos_survived": self._chaos.summary().removeprefix("chaos: ")})

    def _patience_s(self) -> float:
        return _PATIENCE_S if self.tracker.problem is None else _IMPATIENCE_S
