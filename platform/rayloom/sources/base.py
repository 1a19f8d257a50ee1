"""What sources with rollout workers have in common.

A source that takes rollouts from a stream finds some in flight at a barrier. They keep their places: `_take` returns
them first, and orders new ones in their stead as for any other. Counters do not move at a barrier.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from rayloom.contract import (
    Algorithm,
    Metric,
    ReshardContext,
    Rollout,
    Source,
    SourceContext,
    Spec,
    Trajectory,
    WorkerPool,
    deal,
)
from rayloom.rollouts.environment import spec_of
from rayloom.rollouts.episodes import EpisodeStatistics
from rayloom.rollouts.filming import film
from rayloom.rollouts.making import make_environment
from rayloom.rollouts.pool import LocalPool
from rayloom.rollouts.worker import EnvironmentWorker
from rayloom.sources.columns import State, cut
from rayloom.timeline import add_seconds


class RolloutSource(Source):
    """Learns from a pool of workers that step environments, and keeps the statistics of their episodes."""

    counts_own = True
    worker = EnvironmentWorker
    reports: ClassVar[Mapping[str, Metric]] = {
        "return_mean": Metric(better="max", unit="return", meaning="mean over episodes"),
        "return_max": Metric(better="max", unit="return", meaning="best episode"),
        "episode_length_mean": Metric(unit="steps", meaning="mean over episodes"),
    }

    def __init__(self, config: Any, context: SourceContext) -> None:
        """`config` and the context's batch size are this learner's share."""
        assert context.pool is not None
        self._pool: WorkerPool = context.pool
        self._group = context.group
        self._algorithm = context.algorithm
        self._batch_size = context.batch_size
        self._device = context.device
        self._watches = type(self._algorithm).collected is not Algorithm.collected
        self._statistics = EpisodeStatistics()
        self._drained: deque[Rollout] = deque()
        self._env_steps = 0
        self._samples = 0
        self._transfer_s = 0.0
        self._worker_seconds: dict[str, float] = {}
        self._reported_s = (0.0, 0.0)

    @classmethod
    def describe(cls, config: Any) -> Spec:
        """Return the spec of one environment."""
        environment = make_environment(config, 1)
        try:
            return spec_of(environment)
        finally:
            environment.close()

    @classmethod
    def reshard(cls, states: Sequence[State], count: int, context: ReshardContext) -> list[State]:
        """Return everything else with the counters and the unreported episodes dealt out."""
        statistics = [state["statistics"] for state in states]
        returns = cut([value for part in statistics for value in part["returns"]], count)
        lengths = cut([value for part in statistics for value in part["lengths"]], count)
        episodes = deal(sum(int(part["episodes"]) for part in statistics), count)
        env_steps = deal(sum(int(state["env_steps"]) for state in states), count)
        samples = deal(sum(int(state["samples"]) for state in states), count)
        return [
            {
                **states[0],
                "statistics": {"returns": returns[rank], "lengths": lengths[rank], "episodes": episodes[rank]},
                "env_steps": env_steps[rank],
                "samples": samples[rank],
            }
            for rank in range(count)
        ]

    @classmethod
    def frames(cls, config: Any, algorithm: Algorithm, seed: int, most: int) -> list[Any]:
        """Return the rendered frames of one greedy episode, or of its first `most` steps."""
        return film(config, algorithm, seed, most)

    def _address(self, *path: str) -> tuple[str | int, ...]:
        """Return the place of one of this learner's generators in the seed tree."""
        return (*path, self._group.rank) if self._group.rank else path

    def _take(self, num_steps: int, version: int) -> Rollout:
        """Return the next rollout of the stream; those ordered now follow the present weights, as `version`."""
        self._pool.publish(version)
        if self._drained:
            kept = self._drained.popleft()
            self._pool.order(num_steps, kept.worker)
            return kept
        started = time.perf_counter()
        rollout = self._pool.take(num_steps)
        self.wait_s += time.perf_counter() - started
        return rollout

    def _drain(self) -> None:
        """Keep what is in flight, before a barrier."""
        self._drained.extend(self._pool.drain())

    def counters(self) -> dict[str, int]:
        """Return environment steps, finished episodes and the rows or transitions of this learner's batches."""
        return {"env_steps": self._env_steps, "episodes": self._statistics.episodes, "samples": self._samples}

    def metrics(self) -> dict[str, float]:
        """Return statistics of the episodes that ended since the last call."""
        return self._statistics.drain()

    def _to_device(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors on the learner's device, which is not the CPU."""
        started = time.perf_counter()
        moved = {name: value.to(self._device, non_blocking=True) for name, value in tensors.items()}
        self._transfer_s += time.perf_counter() - started
        return moved

    def _account(self, rollout: Rollout) -> None:
        """Take from a rollout that has arrived what it tells besides its transitions."""
        self._statistics.add(rollout.episodes)
        add_seconds(self._worker_seconds, rollout.seconds)

    def _show(self, trajectory: Trajectory) -> None:
        """Let the algorithm see a fresh chunk on the learner's device."""
        if self._watches:
            with torch.no_grad():
                self._algorithm.collected(trajectory)

    def _as_tensors(self, arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        """Return arrays as tensors on the learner's device; on the CPU they share memory."""
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return tensors if self._device.type == "cpu" else self._to_device(tensors)

    def spent(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return the seconds since the last call by activity: those in `next` that are not spent on preparing batches,
        and those of the rollout workers; environments that are stepped in this process count as the former.
        """
        waited, transferred = self._reported_s
        self._reported_s = (self.wait_s, self._transfer_s)
        workers, self._worker_seconds = self._worker_seconds, {}
        own = {"transfer": self._transfer_s - transferred} if self._transfer_s else {}
        if isinstance(self._pool, LocalPool):
            return {**own, "wait": 0.0, **{name: workers.get(name, 0.0) for name in ("step", "inference")}}, {}
        return {**own, "wait": self.wait_s - waited}, workers

    def state_dict(self) -> dict[str, Any]:
        """Return the rollouts that were in flight, statistics and counters."""
        return {
            "drained": [_rollout_state(rollout) for rollout in self._drained],
            "statistics": self._statistics.state_dict(),
            "env_steps": self._env_steps,
            "samples": self._samples,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._drained = deque(_rollout(saved) for saved in state["drained"])
        self._statistics.load_state_dict(state["statistics"])
        self._env_steps = int(state["env_steps"])
        self._samples = int(state["samples"])


def _rollout_state(rollout: Rollout) -> dict[str, Any]:
    """Return a rollout as a tree that a checkpoint can hold; how long it took is of no use later."""
    return {
        "arrays": dict(rollout.arrays),
        "episodes": [list(episode) for episode in rollout.episodes],
        "env_steps": rollout.env_steps,
        "version": rollout.version,
        "worker": rollout.worker,
        "restarted": rollout.restarted,
    }


def _rollout(state: Mapping[str, Any]) -> Rollout:
    """Return the rollout of which `_rollout_state` made a tree."""
    return Rollout(
        {str(name): array for name, array in state["arrays"].items()},
        [(float(total), int(length)) for total, length in state["episodes"]],
        int(state["env_steps"]),
        int(state["version"]),
        int(state["worker"]),
        bool(state["restarted"]),
    )
