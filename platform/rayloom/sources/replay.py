"""Random batches from a ring buffer that rollout workers fill.

    next() --publish, collect until env_steps >= learning_starts + updates * steps_per_update--> workers
           <--sampled segments-- buffer <--transitions--
           --prepare--> batch;   feedback(loss) --priorities--> buffer

`next` steps the environments itself, so it always progresses; the policy that collects is at most `collect_steps`
vector steps older than the weights.

With `in_flight` > 0 (Ape-X: Horgan et al. 2018, arXiv 1803.00933) every worker is ahead of the learner by that many
rollouts, each collected with the weights that were new when it was ordered:

    worker w: order k + in_flight (weights of now) -- in work or waiting -- order k --take--> block w of the buffer

In order of arrival the learner also takes whatever is there, so that fast workers never wait for it: then
`steps_per_update` is the least, not the exact, number of environment steps per update.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from rayloom.checkpoint.random_state import generator_state
from rayloom.config.sources import ReplaySourceConfig
from rayloom.contract import Batch, Loss, ReshardContext, Rollout, SourceContext
from rayloom.errors import UserError
from rayloom.rollouts.rollout import concatenate_rollouts
from rayloom.seeding import numpy_generator
from rayloom.sources.base import RolloutSource
from rayloom.sources.columns import State, as_ring, blocks_in_time, by_other_workers, cut_columns
from rayloom.sources.prioritized_buffer import PrioritizedReplayBuffer
from rayloom.sources.replay_buffer import ReplayBuffer


def _check_sequences(config: ReplaySourceConfig) -> None:
    """Raise UserError for settings of sequences that do not fit together."""
    if not config.sequence_length:
        for key in ("burn_in", "whole_episodes"):
            if getattr(config, key):
                raise UserError(f"source.{key}: belongs to sequences; set source.sequence_length too, or remove it")
        return
    if config.n_step > 1:
        raise UserError("source.n_step: belongs to segments; remove it, or source.sequence_length")
    if config.whole_episodes and (config.burn_in or config.prioritized):
        key = "burn_in" if config.burn_in else "prioritized"
        raise UserError(f"source.{key}: does not go with source.whole_episodes; remove one of them")
    steps = config.burn_in + config.sequence_length
    if config.capacity // config.num_envs < steps:
        raise UserError(
            f"source.capacity: {config.capacity} is too small for sequences of {steps} steps of "
            f"{config.num_envs} environments; raise it"
        )


class ReplaySource(RolloutSource):
    """Feeds one learner from its replay buffer."""

    Config = ReplaySourceConfig
    kind = "replay"

    @classmethod
    def share(cls, config: ReplaySourceConfig, rank: int, count: int) -> ReplaySourceConfig:
        """Return a learner's part of the environments, the workers, the buffer and the steps between two updates."""
        share: ReplaySourceConfig = super().share(config, rank, count)
        return replace(
            share,
            capacity=max(1, config.capacity // count),
            learning_starts=-(-config.learning_starts // count),
            steps_per_update=config.steps_per_update / count,
        )

    def __init__(self, config: ReplaySourceConfig, context: SourceContext) -> None:
        """`config` and the context's batch size are this learner's share."""
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
        _check_sequences(config)
        super().__init__(config, context)
        self._config = config
        rng = numpy_generator(context.seed, *self._address("replay", "sample"))
        self._buffer: ReplayBuffer
        self._prioritized: PrioritizedReplayBuffer | None = None
        # One block for each worker of this learner.
        self._blocks = max(1, config.rollout_workers)
        layout: dict[str, Any] = {
            "blocks": self._blocks,
            "fields": context.algorithm.replay_fields,
            "frames": config.frame_stack,
        }
        if config.prioritized:
            self._prioritized = PrioritizedReplayBuffer(
                config.capacity, config.num_envs, rng, config.priority_exponent, **layout
            )
            self._buffer = self._prioritized
        else:
            self._buffer = ReplayBuffer(config.capacity, config.num_envs, rng, **layout)
        self._index: Any = None
        self._draws = 0

    def next(self) -> Batch:
        """Collect until the replay ratio allows another update, then sample and prepare a batch."""
        due = self._config.learning_starts + self._draws * self._config.steps_per_update
        if self._config.in_flight:
            self._harvest(due)
        elif self._env_steps < due:
            self._collect(due)
        arrays = self._sample()
        self._draws += 1
        self._samples += self._batch_size
        with torch.no_grad():
            return self._algorithm.prepare(self._as_tensors(arrays))

    def _collect(self, due: float) -> None:
        started = time.perf_counter()
        progress = self._algorithm.progress
        while self._env_steps < due:
            # Exploration schedules follow the environment steps, which grow inside this loop.
            progress.env_steps = self._env_steps * self._group.world_size
            self._pool.publish(self._draws)
            self._add(self._pool.collect(self._config.collect_steps))
        self.wait_s += time.perf_counter() - started

    def _add(self, rollouts: list[Rollout]) -> None:
        """Store the rollouts of all workers that there are."""
        if len(rollouts) == self._blocks and not any(rollout.restarted for rollout in rollouts):
            arrays = concatenate_rollouts(rollouts)
            if self._watches:
                self._show(self._as_tensors(arrays))
            self._buffer.add(arrays)
        else:
            for rollout in rollouts:
                self._add_block(rollout)
        for rollout in rollouts:
            self._account(rollout)
            self._env_steps += rollout.env_steps

    def _add_block(self, rollout: Rollout) -> None:
        """Store the rollout of one worker behind what that worker, or its predecessor, has stored."""
        block = rollout.worker % self._blocks
        if self._watches:
            self._show(self._as_tensors(rollout.arrays))
        if rollout.restarted:
            self._buffer.mark_boundary(block)
        self._buffer.add(rollout.arrays, block)

    def _harvest(self, due: float) -> None:
        """Take rollouts until enough is there, in order of arrival also those that wait already."""
        config, progress = self._config, self._algorithm.progress
        # As many as can wait at one moment: an endless supply must not keep the learner from learning.
        surplus = config.in_flight * self._blocks if config.order == "arrival" else 0
        while True:
            if self._env_steps >= due:
                if not surplus or not (self._drained or self._pool.ready()):
                    return
                surplus -= 1
            progress.env_steps = self._env_steps * self._group.world_size
            rollout = self._take(config.collect_steps, self._draws)
            self._add_block(rollout)
            self._account(rollout)
            self._env_steps += rollout.env_steps

    def _sample(self) -> dict[str, Any]:
        config, size = self._config, self._batch_size
        if self._prioritized is None:
            if config.sequence_length:
                return self._buffer.sample_sequences(
                    size, config.sequence_length, config.burn_in, config.whole_episodes
                )
            return self._buffer.sample(size, config.n_step)
        start, end = config.importance_exponent
        beta = start + (end - start) * self._algorithm.progress.fraction
        if config.sequence_length:
            arrays = self._prioritized.sample_prioritized_sequences(size, config.sequence_length, config.burn_in, beta)
        else:
            arrays = self._prioritized.sample(size, config.n_step, beta)
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
        """Keep what is in flight; stored segments end there."""
        if self._config.in_flight:
            self._drain()
        if not self._drained:  # or else rollouts from after the barrier are marked
            self._buffer.mark_boundary()

    def state_dict(self) -> dict[str, Any]:
        """Return counters and the filled part of the buffer."""
        return {**super().state_dict(), "buffer": self._buffer.state_dict(), "draws": self._draws}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self._buffer.load_state_dict(state["buffer"])
        self._draws = int(state["draws"])

    @classmethod
    def reshard(cls, states: Sequence[State], count: int, context: ReshardContext) -> list[State]:
        """Cut the buffers and the rollouts that were in flight anew, by environment.

        Every transition keeps its column, its order, its segment and its priority. Shards that have collected for
        different numbers of steps are aligned at their newest row, and the gaps before the oldest rows of the shorter
        ones are not valid, so that they are never drawn. With another number of rollout workers, segments may end
        before rollouts that were in flight (see `by_other_workers`); they bootstrap there.
        """
        shared, number = super().reshard(states, count, context), context.workers // count
        buffers = [state["buffer"] for state in states]
        blocks = [block for buffer in buffers for block in blocks_in_time(buffer)]
        width = context.config.num_envs // context.workers
        pieces = [cut_columns(blocks, index * width, (index + 1) * width) for index in range(context.workers)]
        dealt = []
        for rank, drained in enumerate(_drained_of_workers(states, count, context)):
            same = len(states) == count  # then so are the environments
            rng = numpy_generator(context.seed, "replay", "sample", rank)
            buffer = {
                **buffers[0],
                **as_ring(pieces[rank * number : (rank + 1) * number], int(buffers[0]["rows"])),
                "rng": buffers[rank]["rng"] if same else generator_state(rng),
            }
            if not drained:
                # A source with rollouts in hand marks the barrier behind them; here nobody would.
                buffer["newest_ends"] = np.ones_like(buffer["newest_ends"])
            if "largest_priority" in buffer:
                buffer["largest_priority"] = max(float(old["largest_priority"]) for old in buffers)
            dealt.append({**shared[rank], "buffer": buffer, "drained": drained})
        return dealt


def _drained_of_workers(states: Sequence[State], count: int, context: ReshardContext) -> list[list[State]]:
    """Return the rollouts that were in flight for the learners that now own their environments."""
    drained = [rollout for state in states for rollout in state["drained"]]
    if context.workers_before != context.workers:
        drained = by_other_workers(drained, context.workers_before, context.workers)
    # In turn, as the stream would have delivered them.
    turns: dict[int, int] = {}
    keyed = []
    for rollout in drained:
        worker = int(rollout["worker"])
        turns[worker] = turns.get(worker, -1) + 1
        keyed.append((turns[worker], worker, rollout))
    keyed.sort(key=lambda entry: entry[:2])
    share = context.workers // count
    return [[rollout for _, worker, rollout in keyed if worker // share == rank] for rank in range(count)]
