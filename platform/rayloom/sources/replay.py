"""Random batches from a ring buffer that rollout workers fill.

    next() --publish, collect until env_steps >= learning_starts + updates * steps_per_update--> workers
           <--sampled segments-- buffer <--transitions--
           --prepare--> batch;   feedback(loss) --priorities--> buffer

`next` steps the environments itself, so it always progresses; the policy that collects is at most `collect_steps`
vector steps older than the weights.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch

from rayloom.cluster.pool import WorkerPool
from rayloom.config import ReplaySourceConfig
from rayloom.contract import Algorithm, Batch, Loss, UserError
from rayloom.group import Group
from rayloom.replay import PrioritizedReplayBuffer, ReplayBuffer
from rayloom.rollout import concatenate_rollouts
from rayloom.seeding import numpy_generator
from rayloom.sources.rollouts import RolloutSource


class ReplaySource(RolloutSource):
    """Feeds one learner from its replay buffer."""

    def __init__(
        self,
        config: ReplaySourceConfig,
        pool: WorkerPool,
        algorithm: Algorithm,
        batch_size: int,
        seed: int,
        device: torch.device,
        group: Group | None = None,
    ) -> None:
        """`config` and `batch_size` are this learner's share."""
        if config.learning_starts > config.capacity:
            raise UserError(
                f"source.learning_starts: {config.learning_starts} steps do not fit into source.capacity "
                f"({config.capacity}); lower it"
            )
        if config.capacity < config.num_envs * config.n_step:
            raise UserError(
                f"source.capacity: {config.capacity} is too small for {config.num_envs} environments and segments of "
                f"{config.n_step} steps; raise it"
            )
        super().__init__(pool, algorithm, batch_size, device, group)
        self._config = config
        rng = numpy_generator(seed, *self._address("replay", "sample"))
        self._buffer: ReplayBuffer
        self._prioritized: PrioritizedReplayBuffer | None = None
        if config.prioritized:
            self._prioritized = PrioritizedReplayBuffer(
                config.capacity, config.num_envs, rng, alpha=config.priority_exponent
            )
            self._buffer = self._prioritized
        else:
            self._buffer = ReplayBuffer(config.capacity, config.num_envs, rng)
        self._index: Any = None
        self._draws = 0

    def next(self) -> Batch:
        """Collect until the replay ratio allows another update, then sample and prepare a batch."""
        due = self._config.learning_starts + self._draws * self._config.steps_per_update
        if self._env_steps < due:
            self._collect(due)
        arrays = self._sample()
        self._draws += 1
        self._samples += self._batch_size
        segments = {name: torch.from_numpy(array) for name, array in arrays.items()}
        if self._device.type != "cpu":
            segments = {name: value.to(self._device, non_blocking=True) for name, value in segments.items()}
        with torch.no_grad():
            return self._algorithm.prepare(segments)

    def _collect(self, due: float) -> None:
        started = time.perf_counter()
        progress = self._algorithm.progress
        while self._env_steps < due:
            # Exploration schedules follow the environment steps, which grow inside this loop.
            progress.env_steps = self._env_steps * self._group.world_size
            self._pool.publish(self._draws)
            rollouts = self._pool.collect(self._config.collect_steps)
            self._buffer.add(concatenate_rollouts(rollouts))
            for rollout in rollouts:
                self._statistics.add(rollout.episodes)
                self._env_steps += rollout.env_steps
        self.wait_s += time.perf_counter() - started

    def _sample(self) -> dict[str, Any]:
        if self._prioritized is None:
            return self._buffer.sample(self._batch_size, self._config.n_step)
        start, end = self._config.importance_exponent
        beta = start + (end - start) * self._algorithm.progress.fraction
        arrays = self._prioritized.sample(self._batch_size, self._config.n_step, beta)
        self._index = arrays.pop("index")
        return arrays

    def feedback(self, loss: Loss) -> None:
        """Give the sampled transitions their new priorities."""
        if self._prioritized is None or self._index is None:
            return
        assert loss.priorities is not None, "prioritised replay needs an algorithm that returns priorities"
        self._prioritized.update_priorities(self._index, loss.priorities.cpu().numpy())
        self._index = None

    def barrier(self) -> None:
        """Restart the environments by a derived seed; stored segments end there."""
        self._pool.barrier()
        self._buffer.mark_boundary()

    def state_dict(self) -> dict[str, Any]:
        """Return counters, the workers and the filled part of the buffer."""
        return {
            "pool": self._pool.state_dict(),
            "buffer": self._buffer.state_dict(),
            "statistics": self._statistics.state_dict(),
            "draws": self._draws,
            "env_steps": self._env_steps,
            "samples": self._samples,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._pool.load_state_dict(state["pool"])
        self._buffer.load_state_dict(state["buffer"])
        self._statistics.load_state_dict(state["statistics"])
        self._draws = int(state["draws"])
        self._env_steps = int(state["env_steps"])
        self._samples = int(state["samples"])
