"""Rollout workers that run ahead of their learner, in this process and without clocks."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from rayloom.checkpoint.random_state import capture_random_state, restore_random_state
from rayloom.config.schema import RunConfig
from rayloom.contract import Algorithm, Rollout
from rayloom.rollouts.worker import RolloutWorker


class Stream:
    """The order of things in a stream of fixed order: each worker has `in_flight` orders, and they take turns."""

    def __init__(self, workers: int, in_flight: int) -> None:
        self.in_flight = in_flight
        self.orders: list[deque[Rollout]] = [deque() for _ in range(workers)]
        self.turn = 0
        self.version = -1
        self.barriers = 0
        self.restarted: set[int] = set()
        """Workers whose next rollout does not continue the one before."""

    def make(self, worker: int, num_steps: int) -> Rollout:
        """Return the next rollout of a worker, ordered now."""
        raise NotImplementedError

    def publish(self, version: int) -> None:
        """Make the present weights those of the next orders."""
        self.version = version

    def take(self, num_steps: int) -> Rollout:
        """Return the next rollout in turn; one takes its place."""
        for worker, orders in enumerate(self.orders):
            while len(orders) < self.in_flight:
                orders.append(self.make(worker, num_steps))
        worker = self.turn % len(self.orders)
        self.turn = worker + 1
        rollout = self.orders[worker].popleft()
        self.orders[worker].append(self.make(worker, num_steps))
        return rollout

    def order(self, num_steps: int, worker: int) -> None:
        """Order a rollout from a worker."""
        if len(self.orders[worker]) < self.in_flight:
            self.orders[worker].append(self.make(worker, num_steps))

    def ready(self) -> bool:
        """Return whether a rollout waits."""
        return any(self.orders)

    def drain(self) -> list[Rollout]:
        """Return what is in flight, in turn."""
        rollouts = []
        while any(self.orders):
            worker = self.turn % len(self.orders)
            self.turn = worker + 1
            rollouts.append(self.orders[worker].popleft())
        return rollouts

    def barrier(self) -> None:
        """Count the barrier; nothing may be in flight."""
        assert not any(self.orders)
        self.barriers += 1
        self.restarted = set(range(len(self.orders)))

    def close(self) -> None:
        """Do nothing."""


class WorkerStream(Stream):
    """A pool of real rollout workers, each with a copy of the algorithm; a factory for `LearnerRole`."""

    restarts = 0

    def __init__(self, config: RunConfig, algorithm: Algorithm, rank: int = 0) -> None:
        source: Any = config.source
        share = source.rollout_workers // config.learner.count
        super().__init__(share, source.in_flight)
        self._algorithm = algorithm
        state = capture_random_state()  # an actor seeds a process of its own
        self._workers = [RolloutWorker(config, index) for index in range(rank * share, (rank + 1) * share)]
        restore_random_state(state)

    def make(self, worker: int, num_steps: int) -> Rollout:
        """Let the worker take the weights and step."""
        restarted = worker in self.restarted
        self.restarted.discard(worker)
        weights = {name: value.detach().clone() for name, value in self._algorithm.state_dict().items()}
        self._workers[worker].load_weights(self.version, weights, replace(self._algorithm.progress))
        return replace(self._workers[worker].collect(num_steps), version=self.version, restarted=restarted)

    def barrier(self) -> None:
        """Restart every environment."""
        super().barrier()
        for worker in self._workers:
            worker.barrier()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of every worker."""
        return {"workers": [worker.state_dict() for worker in self._workers], "turn": self.turn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore every worker."""
        self.turn = int(state["turn"])
        self.restarted = set(range(len(self.orders)))
        for worker, saved in zip(self._workers, state["workers"], strict=True):
            worker.load_state_dict(saved)


class CountingStream(Stream):
    """Rollouts whose observations tell (environment, time), so that everything can be followed.

    Every fifth time step is dead. Each rollout reports one episode.
    """

    def __init__(self, workers: int, in_flight: int, num_envs: int) -> None:
        super().__init__(workers, in_flight)
        self.share = num_envs // workers
        self.times = [0] * workers
        self.taken = 0

    def take(self, num_steps: int) -> Rollout:
        """Count and take."""
        self.taken += 1
        return super().take(num_steps)

    def make(self, worker: int, num_steps: int) -> Rollout:
        """Go on counting."""
        shape = (num_steps, self.share)
        time = np.broadcast_to(np.arange(self.times[worker], self.times[worker] + num_steps)[:, None], shape)
        self.times[worker] += num_steps
        environment = np.broadcast_to(worker * self.share + np.arange(self.share), shape)
        valid = time % 5 != 4
        arrays = {
            "observation": np.stack([environment, time], axis=-1).astype(np.float32),
            "next_observation": np.stack([environment, time + 0.5], axis=-1).astype(np.float32),
            "action": np.zeros(shape, np.int64),
            "reward": time.astype(np.float32),
            "terminated": np.zeros(shape, bool),
            "truncated": time % 5 == 3,
            "valid": valid,
            "first": time % 5 == 0,
        }
        restarted = worker in self.restarted
        self.restarted.discard(worker)
        return Rollout(arrays, [(1.0, 2)], int(valid.sum()), version=self.version, worker=worker, restarted=restarted)

    def collect(self, num_steps: int) -> list[Rollout]:
        """Step all workers together."""
        return [self.make(worker, num_steps) for worker in range(len(self.orders))]

    def barrier(self) -> None:
        """Restart the environments: time jumps."""
        super().barrier()
        self.times = [time + 1000 for time in self.times]

    def state_dict(self) -> dict[str, Any]:
        """Return the clocks."""
        return {"times": list(self.times), "turn": self.turn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the clocks."""
        self.times, self.turn = list(state["times"]), int(state["turn"])
        self.restarted = set(range(len(self.orders)))
