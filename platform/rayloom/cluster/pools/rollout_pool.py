"""Rollout workers as Ray actors, kept alive by the learner that owns them.

    pool --collect(steps, weights ref, progress)--> actor --Rollout--> pool --> source

Weights go through the object store once per version that is ordered with. A worker that dies, raises from its
environment, is later than `cluster.deadline_s` or outgrows `cluster.worker_memory_mib` is replaced, by one with new
seeds; what it had in work is lost and ordered again. When there is no room for its successor (its node is gone), the
others go on without it until there is.

Streams (`take`): each worker has `in_flight` orders, in work or done. In fixed order the k-th rollout comes from worker
k mod W whatever the clocks say, so that a rollout is at most `in_flight` * W takes older than the weights it meets.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import ObjectStoreFullError, OutOfDiskError, RayError

from rayloom.cluster.pools.rollout_actor import RolloutActor
from rayloom.cluster.pools.supervisor import ActorOptions, ActorPool, Supervisor, Worker
from rayloom.config.schema import RunConfig
from rayloom.config.shares import environment_share
from rayloom.contract import Algorithm, Rollout
from rayloom.errors import RoleTimeoutError, UserError

_FULL_PAUSE_S = 0.1


class RayPool(ActorPool):
    """Rollout workers as Ray actors, owned by the process that makes this pool. Used by one thread."""

    def __init__(
        self, config: RunConfig, algorithm: Algorithm, rank: int = 0, placement: ActorOptions | None = None
    ) -> None:
        """Make the rollout workers of learner `rank`, and wait until they stand."""
        source: Any = config.source
        environment_share(config, 0)
        self._config = config
        self._algorithm = algorithm
        self._deadline_s = config.cluster.deadline_s
        self._in_flight = getattr(source, "in_flight", 0)
        self._fixed = getattr(source, "order", "fixed") == "fixed"
        self._version = -1
        self._weights: Any = None
        self._turn = 0
        self._num_steps = 0
        super().__init__(Supervisor(config, rank, placement, RolloutActor, (algorithm.spec,)))

    # --- orders ----------------------------------------------------------------------------------------------------

    def publish(self, version: int) -> None:
        """Make the learner's weights those of the next orders."""
        if version != self._version:
            self._version, self._weights = version, None

    def _order(self, worker: Worker) -> None:
        if self._weights is None:
            weights = {name: value.detach().cpu().numpy() for name, value in self._algorithm.state_dict().items()}
            self._weights = self._put(weights)
        if not worker.orders:
            worker.since = time.monotonic()
        progress = self._algorithm.progress
        worker.orders.append(worker.actor.collect.remote(self._num_steps, self._version, self._weights, progress))

    def _put(self, value: Any) -> Any:
        """Put into the object store; where it is full, wait for others to let go."""
        deadline = time.monotonic() + self._deadline_s
        while True:
            try:
                return ray.put(value)
            except (ObjectStoreFullError, OutOfDiskError) as error:
                if time.monotonic() >= deadline:
                    raise RoleTimeoutError(
                        f"Ray's object store has been full for {self._deadline_s:g} s: give it more memory "
                        f"(ray start --object-store-memory) or free disk space for its spilling"
                    ) from error
                time.sleep(_FULL_PAUSE_S)

    def _receive(self, workers: Sequence[Worker]) -> tuple[Worker, Rollout] | None:
        """Wait for the oldest order of one of these workers; replace those that fail or are late on the way.

        None when a worker had to be left away: the caller decides about the others.
        """
        while True:
            heads = {worker.orders[0]: worker for worker in workers}
            patience = min(self._supervisor.late_at(worker) for worker in workers) - time.monotonic()
            ready, _ = ray.wait(list(heads), num_returns=1, timeout=max(0.0, patience))
            if not ready:
                if self._give_up_on_late(workers):
                    return None
                continue
            worker = heads[ready[0]]
            count = len(worker.orders)
            try:
                rollout: Rollout = ray.get(worker.orders[0])
            except RayError as error:
                self._supervisor.fail(worker, error)
                for _ in range(count):
                    self._order(worker)
                continue
            return worker, self._accept(worker, rollout)

    def _give_up_on_late(self, workers: Sequence[Worker]) -> bool:
        """Replace workers that are hung; leave those away that could not even start. Return whether there were some."""
        away = False
        for worker in workers:
            if time.monotonic() < self._supervisor.late_at(worker):
                continue
            if self._supervisor.is_up(worker):
                count = len(worker.orders)
                self._supervisor.replace(
                    worker, f"it did not answer within {self._deadline_s:g} s (cluster.deadline_s)"
                )
                for _ in range(count):
                    self._order(worker)
            else:
                self._supervisor.leave(worker)
                away = True
        return away

    def _accept(self, worker: Worker, rollout: Rollout) -> Rollout:
        """Take a rollout out of the object store, and look at the worker's size."""
        worker.orders.popleft()
        worker.since = time.monotonic()
        first = worker.delivered == 0
        worker.delivered += 1
        limit = self._config.cluster.worker_memory_mib
        replaced, worker.replaced = worker.replaced, False
        worker.failures = 0
        if limit is not None and rollout.memory_mib > limit:
            if first:
                raise UserError(
                    f"cluster.worker_memory_mib: {worker.name} needs {rollout.memory_mib:.0f} MiB for its first "
                    f"rollout already; raise the limit of {limit:g}"
                )
            self._supervisor.events.append(f"{worker.name} was replaced: it had grown to {rollout.memory_mib:.0f} MiB")
            count = len(worker.orders)
            self._supervisor.renew(worker)
            for _ in range(count):
                self._order(worker)
        # The arrays are read-only views that pin objects in the store: copies let them go.
        arrays = {name: array.copy() for name, array in rollout.arrays.items()}
        return replace(rollout, arrays=arrays, restarted=replaced)

    # --- rollouts --------------------------------------------------------------------------------------------------

    def collect(self, num_steps: int) -> list[Rollout]:
        """Step all workers at once and wait for all; when none is left, for one that comes back."""
        self._num_steps = num_steps
        rollouts: dict[int, Rollout] = {}
        while not rollouts:
            waiting = self._supervisor.present()
            for worker in waiting:
                self._order(worker)
            while waiting:
                received = self._receive(waiting)
                if received is not None:
                    rollouts[received[0].index] = received[1]
                waiting = [worker for worker in waiting if worker.orders and not worker.away]
        return [rollouts[index] for index in sorted(rollouts)]

    def take(self, num_steps: int) -> Rollout:
        """Return the next rollout of the stream."""
        assert self._in_flight > 0
        self._num_steps = num_steps
        while True:
            present = self._supervisor.present()
            for worker in present:
                while len(worker.orders) < self._in_flight:
                    self._order(worker)
            received = self._receive([self._next_in_turn()] if self._fixed else present)
            if received is None:
                continue
            worker, rollout = received
            self._turn = self._supervisor.workers.index(worker) + 1
            self._order(worker)
            return rollout

    def order(self, num_steps: int, worker: int) -> None:
        """Order another rollout from a worker, one of whose was kept at a barrier and is used now."""
        self._num_steps = num_steps
        for present in self._supervisor.present():
            if present.index == worker and len(present.orders) < self._in_flight:
                self._order(present)

    def _next_in_turn(self) -> Worker:
        number = len(self._supervisor.workers)
        turns = (self._supervisor.workers[(self._turn + offset) % number] for offset in range(number))
        return next(worker for worker in turns if not worker.away)

    def ready(self) -> bool:
        """Return whether some worker's rollout waits to be taken."""
        heads = [worker.orders[0] for worker in self._supervisor.workers if worker.orders and not worker.away]
        return bool(heads) and bool(ray.wait(heads, num_returns=1, timeout=0)[0])

    def drain(self) -> list[Rollout]:
        """Return what is in flight, in turn."""
        rollouts = []
        while any(worker.orders and not worker.away for worker in self._supervisor.workers):
            turn = self._next_in_turn()
            self._turn = self._supervisor.workers.index(turn) + 1
            if turn.orders:
                received = self._receive([turn])
                rollouts += [] if received is None else [received[1]]
        return rollouts

    # --- state -----------------------------------------------------------------------------------------------------

    def barrier(self) -> None:
        """Restart every environment."""
        assert not any(worker.orders for worker in self._supervisor.workers), "a barrier needs an empty stream"
        self._supervisor.barriers += 1
        self._supervisor.call("restart", lambda worker: (self._supervisor.barriers,))
        self._mark_restarted()

    def _mark_restarted(self) -> None:
        """In a stream the rollouts from before a barrier are used after it: tell where the new ones begin."""
        for worker in self._supervisor.workers:
            worker.replaced |= self._in_flight > 0

    def state_dict(self) -> dict[str, Any]:
        """Return the state of every worker; one that is away will begin anew."""
        return {"workers": self._supervisor.states(), "turn": self._turn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore every worker."""
        self._supervisor.load_states(list(state["workers"]))
        self._turn = int(state["turn"])
        self._mark_restarted()
