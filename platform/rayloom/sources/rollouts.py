"""What sources with rollout workers have in common."""

from __future__ import annotations

import torch

from rayloom.cluster.pool import WorkerPool
from rayloom.contract import Algorithm, Source
from rayloom.group import Group, SingleLearner
from rayloom.rollout import EpisodeStatistics


class RolloutSource(Source):
    """Owns a pool of rollout workers and the statistics of their episodes."""

    counts_own = True

    def __init__(
        self,
        pool: WorkerPool,
        algorithm: Algorithm,
        batch_size: int,
        device: torch.device,
        group: Group | None = None,
    ) -> None:
        self._pool = pool
        self._group = group or SingleLearner()
        self._algorithm = algorithm
        self._batch_size = batch_size
        self._device = device
        self._statistics = EpisodeStatistics()
        self._env_steps = 0
        self._samples = 0

    def _address(self, *path: str) -> tuple[str | int, ...]:
        """Return the place of one of this learner's generators in the seed tree."""
        return (*path, self._group.rank) if self._group.rank else path

    def counters(self) -> dict[str, int]:
        """Return environment steps, finished episodes and the rows or transitions of this learner's batches."""
        return {"env_steps": self._env_steps, "episodes": self._statistics.episodes, "samples": self._samples}

    def metrics(self) -> dict[str, float]:
        """Return statistics of the episodes that ended since the last call."""
        return self._statistics.drain()

    def close(self) -> None:
        """End the rollout workers."""
        self._pool.close()
