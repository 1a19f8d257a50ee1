"""The rollout workers of one learner and their lives: started, lost, replaced, away and back."""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import ray
from ray.exceptions import ObjectStoreFullError, OutOfDiskError, RayError, RayTaskError

from rayloom.cluster.nodes.connection import how_it_died, original, search_path
from rayloom.cluster.nodes.placement import LONG_LIVED
from rayloom.cluster.nodes.processes import strike
from rayloom.config.schema import RunConfig
from rayloom.errors import Process, RoleDiedError, RoleTimeoutError, UserError, raised_by_environment
from rayloom.rollouts.worker import RolloutWorker

_START_S = 60.0
"""What a process needs at most to import torch and make its environments, on a busy machine."""


def start_s(config: RunConfig) -> float:
    """Return how long one waits for a rollout worker to start."""
    return max(_START_S, config.cluster.deadline_s)


class ActorOptions(Protocol):
    """Where a role's actors run: see `rayloom.cluster.nodes.placement`."""

    def options(self, role: str, index: int) -> dict[str, Any]:
        """Return keyword arguments for Ray's ActorClass.options."""


@dataclass
class Worker:
    """One place among the rollout workers, whoever holds it at the moment."""

    index: int
    actor: Any = None
    starting: Any = None
    """The answer of `ready` that the actor still owes; None once it is there."""
    process: Process | None = None
    orders: deque[Any] = field(default_factory=deque)
    """Answers that it owes, oldest first."""
    since: float = 0.0
    """When the oldest order came to the front (monotonic seconds)."""
    restarts: int = 0
    failures: int = 0
    """Failures since the last rollout."""
    exceptions: int = 0
    """Exceptions of its environments, in all."""
    replaced: bool = False
    """Whether it was replaced since its last rollout."""
    delivered: int = 0
    """Rollouts of its present process."""
    away: bool = False
    """Whether the others go on without it."""

    @property
    def name(self) -> str:
        return f"rollout worker {self.index}"


def _in_one_line(error: Exception) -> str:
    if isinstance(error, RayTaskError):
        cause = original(error)
        return f"{type(cause).__name__}: {' '.join(str(cause).split())[:200]}"
    return how_it_died(error)


class Supervisor:
    """Keeps every place among a learner's rollout workers filled. Used by one thread."""

    def __init__(
        self,
        config: RunConfig,
        rank: int,
        placement: ActorOptions | None,
        actor_class: type[Any],
        arguments: Sequence[Any] = (),
    ) -> None:
        """Start the rollout workers of learner `rank`, each an `actor_class`, and wait until they stand.

        `arguments` are what its constructor takes besides.
        """
        settings = config.workers()
        assert settings is not None
        share = settings.rollout_workers // config.learner.count
        self._config, self._settings = config, settings
        self._tree = config.to_tree()
        self._placement = placement
        self._actor_class, self._arguments = actor_class, arguments
        self._deadline_s = config.cluster.deadline_s
        self._start_s = start_s(config)
        self._tries = config.cluster.tries
        self._closed = False
        self.barriers = 0
        self.events: list[str] = []
        self.workers = [Worker(index) for index in range(rank * share, (rank + 1) * share)]
        for worker in self.workers:
            self._start(worker)
        try:
            self._await_start()
        except BaseException:
            self.close()
            raise

    def _start(self, worker: Worker) -> None:
        if self._closed:  # by another thread than the one that waits for the workers
            raise RoleDiedError("the rollout workers have been ended")
        if self._placement is not None:
            options = self._placement.options("rollout", worker.index)
        else:
            options = {**LONG_LIVED, "num_cpus": self._settings.worker_cpus, "num_gpus": self._settings.worker_gpus}
        actor = ray.remote(self._actor_class).options(**options)
        place = (self._tree, worker.index, search_path(), self.barriers, worker.restarts)
        worker.actor = actor.remote(*place, *self._arguments)
        worker.starting, worker.process = worker.actor.ready.remote(), None
        worker.orders.clear()
        worker.delivered = 0

    def _await_start(self) -> None:
        """Wait for all workers; what their construction raises ends the run at once, since it has done nothing yet."""
        deadline = time.monotonic() + self._start_s
        waiting = list(self.workers)
        while waiting:
            refs = {worker.starting: worker for worker in waiting}
            ready, _ = ray.wait(list(refs), num_returns=1, timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                names = ", ".join(worker.name for worker in waiting)
                raise RoleTimeoutError(f"{names} did not start within {self._start_s:g} s (cluster.deadline_s)")
            worker = refs[ready[0]]
            try:
                self._greet(worker)
            except RayTaskError as error:
                raise original(error) from None
            except RayError as error:
                self.replace(worker, error)
            waiting = [worker for worker in waiting if worker.starting is not None]

    def _greet(self, worker: Worker) -> None:
        """Take the answer of `ready`, which has arrived."""
        worker.process, worker.starting = ray.get(worker.starting), None
        worker.since = time.monotonic()

    def is_up(self, worker: Worker) -> bool:
        """Return whether the worker has started; of one that failed to, its orders will tell."""
        if worker.starting is not None and ray.wait([worker.starting], timeout=0)[0]:
            try:
                self._greet(worker)
            except RayError as error:
                if isinstance(error, RayTaskError) and isinstance(original(error), UserError):
                    raise original(error) from None
                if worker.away:  # and has no orders
                    self.fail(worker, error)
        return worker.starting is None

    def fail(self, worker: Worker, error: RayError) -> None:
        """Count a failure and replace the worker, unless it was one too many; defects of our own pass through."""
        if isinstance(error, RayTaskError):
            cause = original(error)
            if not isinstance(error.cause, ObjectStoreFullError | OutOfDiskError):
                worker.exceptions += 1
                if not raised_by_environment(cause) or worker.exceptions >= self._tries:
                    raise cause from None
        self.replace(worker, error)

    def replace(self, worker: Worker, reason: Exception | str) -> None:
        """Put another process in the worker's place; RoleDiedError when it failed too often in a row."""
        worker.failures += 1
        told = reason if isinstance(reason, str) else _in_one_line(reason)
        if worker.failures >= self._tries:
            error = RoleDiedError(f"{worker.name} failed {worker.failures} times in a row; the last time: {told}")
            raise error from (reason if isinstance(reason, Exception) else None)
        self.events.append(f"{worker.name} was replaced: {told}")
        self.renew(worker)

    def renew(self, worker: Worker) -> None:
        """Put another process in the worker's place."""
        self._end(worker)
        worker.restarts += 1
        worker.replaced = True
        self._start(worker)

    @staticmethod
    def _end(worker: Worker) -> None:
        ray.kill(worker.actor)
        if worker.process is not None:
            strike(worker.process, signal.SIGCONT)  # a process that is stopped does not hear Ray

    def _come_back(self, worker: Worker) -> None:
        """Let a worker that was away take part again."""
        worker.away = False
        self.events.append(f"{worker.name} is back")
        worker.actor.restart.remote(self.barriers)

    def present(self) -> list[Worker]:
        """Return the workers that take part; when all are away, wait for one. RoleTimeoutError when none comes."""
        deadline = time.monotonic() + self._start_s
        while True:
            for worker in self.workers:
                if worker.away and self.is_up(worker):
                    self._come_back(worker)
            present = [worker for worker in self.workers if not worker.away]
            if present:
                return present
            starting = [worker.starting for worker in self.workers]
            patience = max(0.0, deadline - time.monotonic())
            if not ray.wait(starting, num_returns=1, timeout=patience)[0]:
                names = ", ".join(worker.name for worker in self.workers)
                raise RoleTimeoutError(f"the cluster has had no room for any of {names} for {self._start_s:g} s")

    def late_at(self, worker: Worker) -> float:
        """Return when its oldest order is late (monotonic seconds); a process that is starting has more time."""
        return worker.since + (self._deadline_s if self.is_up(worker) else self._start_s)

    def call(self, method: str, arguments: Any) -> dict[int, Any]:
        """Call a method of every worker that is there, by position; one that fails is replaced and called again."""
        answers: dict[int, Any] = {}
        waiting = self.present()
        starting = not all(self.is_up(worker) for worker in waiting)
        deadline = time.monotonic() + (self._start_s if starting else self._deadline_s)
        while waiting:
            calls = {getattr(worker.actor, method).remote(*arguments(worker)): worker for worker in waiting}
            _, late = ray.wait(list(calls), num_returns=len(calls), timeout=max(0.0, deadline - time.monotonic()))
            waiting = []
            for ref, worker in calls.items():
                if ref in late:
                    self.replace(worker, f"it did not answer within {self._deadline_s:g} s (cluster.deadline_s)")
                else:
                    try:
                        answers[self.workers.index(worker)] = ray.get(ref)
                        continue
                    except RayError as error:
                        self.fail(worker, error)
                waiting.append(worker)
                deadline = time.monotonic() + self._start_s  # its successor has to start first
        return answers

    def leave(self, worker: Worker) -> None:
        """Let the others go on without a worker for which there is no room, until its next process stands."""
        self.events.append(f"there is no room for {worker.name}: the others go on without it")
        worker.away = True
        self.renew(worker)

    def states(self) -> list[dict[str, Any]]:
        """Return the state of every worker; one that is away will begin anew."""
        found = self.call("state_dict", lambda worker: ())
        return [found.get(place) or self._fresh_state(worker) for place, worker in enumerate(self.workers)]

    def _fresh_state(self, worker: Worker) -> dict[str, Any]:
        return RolloutWorker.fresh_state(self._config.seed, worker.index, self.barriers, worker.restarts)

    def load_states(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Restore every worker."""
        assert len(states) == len(self.workers)
        self.barriers = max(int(saved["barriers"]) for saved in states)
        for worker, saved in zip(self.workers, states, strict=True):
            worker.restarts = int(saved["restarts"])
        self.call("load_state_dict", lambda worker: (states[self.workers.index(worker)],))

    def take_events(self) -> list[str]:
        """Return and forget one line for everything that befell the workers."""
        events, self.events = self.events, []
        return events

    @property
    def restarts(self) -> int:
        """Workers replaced so far, in runs that this one continues too."""
        return sum(worker.restarts for worker in self.workers)

    def processes(self) -> list[Process]:
        """Return the processes of the workers that have started."""
        return [worker.process for worker in self.workers if self.is_up(worker) and worker.process is not None]

    def close(self) -> None:
        """End the actors. Idempotent."""
        self._closed = True
        for worker in self.workers:
            if worker.actor is not None:
                self._end(worker)
        self.workers = []


class ActorPool:
    """What pools have in common whose workers are a supervisor."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    @property
    def restarts(self) -> int:
        """Workers replaced so far, in runs that this one continues too."""
        return self._supervisor.restarts

    def events(self) -> list[str]:
        """Return and forget one line for everything that befell the workers."""
        return self._supervisor.take_events()

    def processes(self) -> list[Process]:
        """Return the processes of the workers that have started."""
        return self._supervisor.processes()

    def close(self) -> None:
        """End the actors."""
        self._supervisor.close()
