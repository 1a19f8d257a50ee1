"""A central policy that runs ahead of its learner: a thread of the learner's process, with weights of its own.

    learner --order: steps, version, weights, progress--> thread: policy on the learner's device <--> environment actors
            <--one rollout of each worker, in their order--

The environments never wait for the learner, only for the policy, which chooses for half of them at a time (see
`central_pool`). An order is for one rollout of every worker, and there are `in_flight` of them: the next is given when
the last rollout of the oldest has been taken, with the weights of then. So the lag is bounded as that of workers with
policies of their own, and the stream repeats itself. Rollouts come in the workers' order, whatever `source.order` says.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rayloom.cluster.pools.central_pool import CentralPool
from rayloom.cluster.pools.supervisor import ActorOptions, start_s
from rayloom.config.schema import RunConfig
from rayloom.contract import Algorithm, Progress, Rollout
from rayloom.devices import device_of
from rayloom.errors import Process, RoleTimeoutError


class CentralStream:
    """A stream of rollouts from environment actors and one policy for all. Its owner calls it from one thread."""

    def __init__(
        self, config: RunConfig, algorithm: Algorithm, rank: int = 0, placement: ActorOptions | None = None
    ) -> None:
        """Make the actors of learner `rank` and a copy of `algorithm`, and wait until all stand."""
        with torch.random.fork_rng(devices=[]):  # the copy's first weights are of no use to anybody
            self._policy = type(algorithm)(algorithm.config, algorithm.spec)
        self._policy.to(device_of(algorithm)).eval()
        self._algorithm = algorithm
        source: Any = config.source
        self._in_flight: int = source.in_flight
        # A worker may hang and have to be replaced, and its successor too.
        self._deadline_s = config.cluster.tries * (config.cluster.deadline_s + start_s(config))
        self._last = (rank + 1) * (source.rollout_workers // config.learner.count) - 1
        self._version = -1
        self._weights: Mapping[str, Tensor] | None = None
        self._ordered: deque[Future[list[Rollout]]] = deque()
        self._arrived: deque[Rollout] = deque()
        self._pool = CentralPool(config, self._policy, rank, placement)
        self._processes = self._pool.processes()
        self._events: deque[str] = deque()
        self._thread = ThreadPoolExecutor(1, "central policy")

    def _serve(self, num_steps: int, version: int, weights: Mapping[str, Tensor], progress: Progress) -> list[Rollout]:
        """Carry out an order, in the thread."""
        self._policy.load_state_dict(weights)
        self._policy.progress = progress
        self._pool.publish(version)
        rollouts = self._pool.collect(num_steps)
        self._processes = self._pool.processes()
        self._events.extend(self._pool.events())
        return rollouts

    # --- rollouts --------------------------------------------------------------------------------------------------

    @property
    def restarts(self) -> int:
        """Workers replaced so far, in runs that this one continues too."""
        return self._pool.restarts

    def publish(self, version: int) -> None:
        """Make the learner's weights those of the next orders."""
        if version != self._version:
            self._version, self._weights = version, None

    def _order(self, num_steps: int) -> None:
        if self._weights is None:
            self._weights = {name: value.detach().clone() for name, value in self._algorithm.state_dict().items()}
        progress = replace(self._algorithm.progress)
        self._ordered.append(self._thread.submit(self._serve, num_steps, self._version, self._weights, progress))

    def _await(self) -> None:
        """Wait for the oldest order; what its thread raised is raised here."""
        if not wait([self._ordered[0]], self._deadline_s).done:
            raise RoleTimeoutError(
                f"the central policy did not finish a rollout within {self._deadline_s:g} s (cluster.deadline_s)"
            )
        self._arrived.extend(self._ordered.popleft().result())

    def collect(self, num_steps: int) -> list[Rollout]:
        """Never called: a stream is taken from, one rollout at a time."""
        raise AssertionError("a stream has no common rollouts")

    def take(self, num_steps: int) -> Rollout:
        """Return the next rollout of the stream."""
        while len(self._ordered) < self._in_flight - bool(self._arrived):
            self._order(num_steps)
        if not self._arrived:
            self._await()
        rollout = self._arrived.popleft()
        if not self._arrived:
            self._order(num_steps)
        return rollout

    def order(self, num_steps: int, worker: int) -> None:
        """Order another rollout of all workers when the one of the last of them, kept at a barrier, is used."""
        if worker == self._last and len(self._ordered) < self._in_flight:
            self._order(num_steps)

    def ready(self) -> bool:
        """Return whether a rollout waits to be taken."""
        return bool(self._arrived) or (bool(self._ordered) and self._ordered[0].done())

    def drain(self) -> list[Rollout]:
        """Return what is in flight."""
        while self._ordered:
            self._await()
        rollouts = list(self._arrived)
        self._arrived.clear()
        return rollouts

    # --- state: the thread has nothing to do meanwhile -------------------------------------------------------------

    def barrier(self) -> None:
        """Restart every environment."""
        assert not self._ordered and not self._arrived, "a barrier needs an empty stream"
        self._pool.barrier()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of every worker, and of the generators that explore for them."""
        return self._pool.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore every worker."""
        self._pool.load_state_dict(state)

    def events(self) -> list[str]:
        """Return and forget one line for everything that befell the workers, up to the last order that is done."""
        told = [self._events.popleft() for _ in range(len(self._events))]
        return told if self._ordered else told + self._pool.events()

    def processes(self) -> list[Process]:
        """Return the processes of the workers that had started when the last order was done."""
        return self._processes if self._ordered else self._pool.processes()

    def close(self) -> None:
        """End the actors and the thread. Idempotent."""
        self._pool.close()
        self._thread.shutdown(cancel_futures=True)
