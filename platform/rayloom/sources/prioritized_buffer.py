"""Replay by priority."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from rayloom.sources.replay_buffer import Array, ReplayBuffer
from rayloom.sources.sum_tree import SumTree

# Added to every priority, so that a transition without error is drawn now and then (Schaul et al. 2016, section 3.3).
_SMALLEST_PRIORITY = 1e-6


class PrioritizedReplayBuffer(ReplayBuffer):
    """Proportional prioritised replay (Schaul et al. 2016, "Prioritized Experience Replay").

    Transition i starts a segment with probability P(i) = p_i^alpha / sum_k p_k^alpha, stratified over the batch.

    Departure from the paper: the importance weights (count * P(i))^-beta are not divided by their maximum. The maximum
    of one batch, or of one shard's buffer, would weigh shards against each other, and K shards would no longer equal
    one batch. At beta = 1 the weighted mean over a batch is an unbiased estimate of the mean over the buffer.
    """

    def __init__(
        self,
        capacity: int,
        num_envs: int,
        rng: np.random.Generator,
        alpha: float,
        blocks: int = 1,
        fields: Iterable[str] = (),
        frames: int = 1,
    ) -> None:
        """As `ReplayBuffer`; `alpha` 0 is uniform."""
        super().__init__(capacity, num_envs, rng, blocks, fields, frames)
        self.alpha = alpha
        self._tree = SumTree(self._slots)
        self._largest = 1.0  # largest priority so far, which new transitions get

    def sample(self, batch_size: int, n_step: int, beta: float = 1.0) -> dict[str, Array]:
        """Draw segments by the priority of their first transition.

        Adds to `ReplayBuffer.sample`: weight [B] float32, and index [B] for `update_priorities`.
        """
        index, weight = self._draw_by_priority(batch_size, beta)
        return {**self._segments(index, n_step), "weight": weight, "index": index}

    def sample_prioritized_sequences(self, batch_size: int, length: int, burn_in: int, beta: float) -> dict[str, Array]:
        """Draw sequences by the priority of their start; adds `weight` and `index` to them, as `sample` does."""
        index, weight = self._draw_by_priority(batch_size, beta)
        return {**self._sequences(index, length, burn_in), "weight": weight, "index": index}

    def _draw_by_priority(self, batch_size: int, beta: float) -> tuple[Array, Array]:
        """Return slots [B] and their importance weights [B]."""
        assert self._count > 0, "sample from an empty replay buffer"
        total = self._tree.total
        strata = (np.arange(batch_size) + self.rng.random(batch_size)) / batch_size
        index = self._tree.find(strata * total)
        probability = self._tree.values.take(index) / total
        return index, ((self._count * probability) ** -beta).astype(np.float32)

    def update_priorities(self, index: Array, priorities: Array) -> None:
        """Set the priorities [B], non-negative, of the sampled slots [B]; of equal slots the last one counts.

        Call it before the next `add`, which may put other transitions into these slots.
        """
        priorities = np.asarray(priorities, dtype=np.float64)
        if not (np.isfinite(priorities) & (priorities >= 0)).all():
            raise ValueError(f"replay priorities must be finite and non-negative, not {priorities.min()}")
        self._largest = max(self._largest, float(priorities.max()))
        self._set(index, priorities)

    def state_dict(self, copy: bool = True) -> dict[str, Any]:
        """Return the buffer's state with its priorities; the sums follow from them."""
        leaves = self._tree.values[: max(self._filled) * self.num_envs]
        state = super().state_dict(copy)
        return {**state, "leaves": leaves.copy() if copy else leaves, "largest_priority": self._largest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned, sums included, to the last bit."""
        super().load_state_dict(state)
        self._largest = float(state["largest_priority"])
        self._tree = SumTree(self._slots)
        self._tree.set(np.arange(len(state["leaves"])), np.asarray(state["leaves"]))

    def _write(self, transitions: Mapping[str, Array], start: int, stop: int, block: int | None) -> None:
        head = self._heads[block or 0]
        slots = np.arange(head * self.num_envs, (head + stop - start) * self.num_envs)
        if block is not None:
            slots = slots.reshape(-1, self.num_envs)[:, self._columns(block)].ravel()
        super()._write(transitions, start, stop, block)
        self._set(slots, np.full(len(slots), self._largest))

    def _forget(self, rows: Array, columns: slice) -> None:
        super()._forget(rows, columns)
        slots = (rows[:, None] * self.num_envs + np.arange(self.num_envs)[columns]).ravel()
        self._set(slots, np.zeros(len(slots)))

    def _set(self, slots: Array, priorities: Array) -> None:
        # Dead steps keep priority 0: the tree never finds them.
        self._tree.set(slots, (priorities + _SMALLEST_PRIORITY) ** self.alpha * self._flat["valid"].take(slots))
