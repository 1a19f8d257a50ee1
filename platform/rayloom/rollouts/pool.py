"""Rollout workers as their learner sees them, and the pool that keeps them in the learner's own process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from rayloom.config.schema import RunConfig
from rayloom.contract import Algorithm, Rollout, WorkerPool
from rayloom.errors import Process
from rayloom.rollouts.worker import RolloutWorker


class OwnedPool(WorkerPool, Protocol):
    """The rollout workers that one learner owns, as the engine sees them. Every call that waits has a deadline."""

    @property
    def restarts(self) -> int:
        """Workers replaced so far."""

    def barrier(self) -> None:
        """Restart every environment by its next derived seed. Nothing may be in flight.

        The first rollout of each worker of a stream is marked `restarted` afterwards.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return the state of every worker right after a barrier: {"workers": [...], "turn": int}."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore every worker."""

    def events(self) -> list[str]:
        """Return and forget one line for everything that befell the workers."""

    def processes(self) -> list[Process]:
        """Return the workers' processes; none in the learner's own."""

    def close(self) -> None:
        """End the workers. Idempotent."""


class LocalPool:
    """One rollout worker in this process, which shares the learner's algorithm object."""

    restarts = 0

    def __init__(self, config: RunConfig, algorithm: Algorithm, rank: int = 0) -> None:
        """Make the worker of learner `rank`."""
        self._algorithm = algorithm
        self._worker = RolloutWorker(config, rank, algorithm)
        self._version = -1

    def publish(self, version: int) -> None:
        """Refresh the acting caches: the weights themselves are shared."""
        if version != self._version:
            self._version = version
            with torch.no_grad():
                self._algorithm.after_publish()

    def collect(self, num_steps: int) -> list[Rollout]:
        """Step the environments here and now."""
        return [self.take(num_steps)]

    def take(self, num_steps: int) -> Rollout:
        """Step the environments here and now."""
        return self._worker.collect(num_steps, self._version)

    def order(self, num_steps: int, worker: int) -> None:
        """Do nothing: a rollout is made when it is taken."""

    def ready(self) -> bool:
        """Return False: a rollout is made when it is taken."""
        return False

    def drain(self) -> list[Rollout]:
        """Return nothing: nothing is in flight."""
        return []

    def barrier(self) -> None:
        """Restart the environments."""
        self._worker.barrier()

    def state_dict(self) -> dict[str, Any]:
        """Return the worker's state."""
        return {"workers": [self._worker.state_dict()], "turn": 0}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the worker."""
        self._worker.load_state_dict(state["workers"][0])

    def events(self) -> list[str]:
        """Return nothing: what happens to this process happens to the run."""
        return []

    def processes(self) -> list[Process]:
        """Return none: the worker lives in the learner's process."""
        return []

    def close(self) -> None:
        """Close the environments."""
        self._worker.close()
