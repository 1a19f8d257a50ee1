"""Rollout workers as their learner sees them, and the pool that keeps them in the learner's own process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from rayloom.config import RunConfig
from rayloom.contract import Algorithm
from rayloom.rollout import Rollout, RolloutWorker


class WorkerPool(Protocol):
    """The rollout workers that one learner owns. `collect` waits for all of them, with a deadline."""

    def publish(self, version: int) -> None:
        """Make the learner's current weights the policy of `version` for the following rollouts."""

    def collect(self, num_steps: int) -> list[Rollout]:
        """Step every environment of every worker `num_steps` times; results in the order of the workers."""

    def barrier(self) -> None:
        """Restart every environment by its next derived seed."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state of every worker right after a barrier."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore every worker."""

    def close(self) -> None:
        """End the workers. Idempotent."""


class LocalPool:
    """One rollout worker in this process, which shares the learner's algorithm object."""

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
        return [self._worker.collect(num_steps)]

    def barrier(self) -> None:
        """Restart the environments."""
        self._worker.barrier()

    def state_dict(self) -> dict[str, Any]:
        """Return the worker's state."""
        return {"workers": [self._worker.state_dict()]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the worker."""
        self._worker.load_state_dict(state["workers"][0])

    def close(self) -> None:
        """Close the environments."""
        self._worker.close()
