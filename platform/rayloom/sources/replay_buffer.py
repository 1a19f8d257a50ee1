"""Replay: ring buffers of true transitions, sampled as n-step segments, uniformly or by priority.

The ring has `capacity // num_envs` time rows of N environments; a transition's slot is `row * N + environment`. A
segment starts at a valid transition and ends at the first that terminated or was truncated, at a boundary, at the
newest row, or after n steps. The newest row is marked as an end until the next one is written, so that no segment can
run over the write head.

Rollout workers that run ahead of each other write a block of columns each, with a write head of its own:

    time rows   | worker 0 | worker 1 |      2 blocks of N / 2 environments; worker 0 is two rows ahead. Rows that were
        0       | # # # #  | # # # #  |      never written are not valid, and so never drawn: uniform means uniform over
        1       | # # # #  | . . . .  |      all valid transitions, whoever wrote them.
        2       | # # # #  | . . . .  |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from rayloom.errors import UserError

Array = npt.NDArray[Any]

_KEYS = ("observation", "action", "reward", "next_observation", "terminated", "valid")
# Children of one node of the sum tree: few levels, each a handful of NumPy calls over the whole batch.
_FAN_OUT = 16
# Added to every priority, so that a transition without error is drawn now and then (Schaul et al. 2016, section 3.3).
_SMALLEST_PRIORITY = 1e-6


class ReplayBuffer:
    """Uniform replay; `capacity` counts transitions over all environments. Arrays are made at the first `add`."""

    def __init__(self, capacity: int, num_envs: int, rng: np.random.Generator, blocks: int = 1) -> None:
        """Lay out rows of `num_envs` environments, which belong to `blocks` writers in equal shares."""
        if capacity < num_envs:
            raise UserError(f"source.capacity: must be at least source.num_envs={num_envs}, not {capacity}")
        assert num_envs % blocks == 0
        self.num_envs = num_envs
        self.blocks = blocks
        self.rows = capacity // num_envs
        self.rng = rng
        self._slots = self.rows * num_envs
        self._arrays: dict[str, Array] = {}  # each [rows, N, ...]; "ends" marks where segments stop
        self._flat: dict[str, Array] = {}  # the same memory as [rows * N, ...]
        self._heads = [0] * blocks  # the row that each block writes next
        self._filled = [0] * blocks  # rows that each block has written
        self._count = 0  # valid transitions among them
        self._newest_ends = np.ones(num_envs, dtype=np.bool_)  # true ends of episodes in the newest row

    def __len__(self) -> int:
        """Return the number of valid transitions stored."""
        return self._count

    def add(self, transitions: Mapping[str, Array], block: int | None = None) -> None:
        """Append a time-major chunk [T, N, ...] of observation, action, reward, next_observation and the flags.

        The flags are terminated, truncated and valid; other keys are ignored. Everything is copied. With `block` the
        chunk [T, N / blocks, ...] belongs to the environments of that block alone.
        """
        if block is None and self.blocks > 1 and len(set(zip(self._heads, self._filled, strict=True))) > 1:
            for number in range(self.blocks):
                columns = self._columns(number)
                self.add({key: transitions[key][:, columns] for key in (*_KEYS, "truncated")}, number)
            return
        steps = len(transitions["reward"])
        if not self._arrays:
            self._allocate({key: (transitions[key].shape[2:], transitions[key].dtype) for key in _KEYS})
        if steps > self.rows:
            transitions = {key: values[-self.rows :] for key, values in transitions.items()}
            steps = self.rows
        first = min(steps, self.rows - self._heads[block or 0])
        self._write(transitions, 0, first, block)
        if first < steps:
            self._write(transitions, first, steps, block)

    def mark_boundary(self, block: int | None = None) -> None:
        """End the newest segment of every environment, or of a block's: they were reset. The end bootstraps."""
        self._newest_ends[self._columns(block)] = True

    def _columns(self, block: int | None) -> slice:
        """Return the columns of a block; of all blocks for None."""
        if block is None:
            return slice(None)
        width = self.num_envs // self.blocks
        return slice(block * width, (block + 1) * width)

    def sample(self, batch_size: int, n_step: int) -> dict[str, Array]:
        """Draw segments that start at uniformly chosen valid transitions, with replacement.

        Returns observation [B, ...], action [B, ...], reward [B, n] float32 (0 after the segment's end), length [B]
        (1 to n), terminated [B] (the segment ends in a terminal state) and next_observation [B, ...], the true
        successor of its last step.
        """
        return self._segments(self._draw_uniformly(batch_size), n_step)

    def state_dict(self, copy: bool = True) -> dict[str, Any]:
        """Return the written part of the ring and the generator's state.

        Without `copy` the arrays are views: for a writer that is done before the next `add`.
        """
        arrays = {key: values[: max(self._filled)] for key, values in self._arrays.items()}
        return {
            "arrays": {key: values.copy() if copy else values for key, values in arrays.items()},
            "newest_ends": self._newest_ends.copy(),
            "rows": self.rows,
            "num_envs": self.num_envs,
            "heads": list(self._heads),
            "filled": list(self._filled),
            "rng": self.rng.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned; the next samples equal those that would have followed."""
        if (state["rows"], state["num_envs"]) != (self.rows, self.num_envs):
            raise UserError(
                f"source.capacity: the checkpoint's replay buffer holds {state['rows']} rows of {state['num_envs']} "
                f"environments, the config asks for {self.rows} of {self.num_envs}; keep both as they were"
            )
        assert len(state["heads"]) == self.blocks
        self._heads = [int(head) for head in state["heads"]]
        self._filled = [int(filled) for filled in state["filled"]]
        self._newest_ends = np.array(state["newest_ends"], dtype=np.bool_)
        self.rng.bit_generator.state = state["rng"]
        self._arrays, self._flat, self._count = {}, {}, 0
        if state["arrays"]:
            arrays = {key: np.asarray(values) for key, values in state["arrays"].items()}
            self._allocate({key: (arrays[key].shape[2:], arrays[key].dtype) for key in _KEYS})
            for key, values in arrays.items():
                self._arrays[key][: len(values)] = values
            self._count = int(np.count_nonzero(arrays["valid"]))

    def _allocate(self, fields: Mapping[str, tuple[tuple[int, ...], Any]]) -> None:
        """Make the ring; zeros are pages that the system hands out when they are first written."""
        for key, (shape, dtype) in {**fields, "ends": ((), np.bool_)}.items():
            stored = np.float32 if dtype == np.float64 else dtype
            self._flat[key] = np.zeros((self._slots, *shape), dtype=stored)
            self._arrays[key] = self._flat[key].reshape(self.rows, self.num_envs, *shape)

    def _write(self, transitions: Mapping[str, Array], start: int, stop: int, block: int | None) -> None:
        """Write the chunk's steps `start` to `stop` - 1 at the head, where they fit without wrapping."""
        columns, head, filled = self._columns(block), self._heads[block or 0], self._filled[block or 0]
        tail = head + stop - start
        arrays = self._arrays
        if block is not None:
            arrays = {key: values[:, columns] for key, values in arrays.items()}
        ends = arrays["ends"]
        if filled:
            ends[head - 1] = self._newest_ends[columns]
            if filled == self.rows:
                self._count -= int(np.count_nonzero(arrays["valid"][head:tail]))
        for key in _KEYS:
            arrays[key][head:tail] = transitions[key][start:stop]
        np.logical_or(transitions["terminated"][start:stop], transitions["truncated"][start:stop], out=ends[head:tail])
        self._newest_ends[columns] = ends[tail - 1]
        ends[tail - 1] = True
        self._count += int(np.count_nonzero(arrays["valid"][head:tail]))
        for number in range(self.blocks) if block is None else (block,):
            self._filled[number] = max(filled, tail)
            self._heads[number] = tail % self.rows

    def _draw_uniformly(self, batch_size: int) -> Array:
        """Return slots [B] by rejection: exactly uniform over the valid ones."""
        assert self._count > 0, "sample from an empty replay buffer"
        written = max(self._filled) * self.num_envs
        slots = self.rng.integers(0, written, size=batch_size)
        while self._count < written:
            rejected = np.flatnonzero(~self._flat["valid"].take(slots))
            if not rejected.size:
                break
            slots[rejected] = self.rng.integers(0, written, size=rejected.size)
        return slots

    def _segments(self, start: Array, n_step: int) -> dict[str, Array]:
        """Return the segments of up to `n_step` steps that begin at the slots `start` [B]."""
        flat = self._flat
        if n_step == 1:
            last, reward, length = start, flat["reward"].take(start)[:, None], np.ones(len(start), dtype=np.int64)
        else:
            steps = np.arange(n_step)
            slots = (start[:, None] + steps * self.num_envs) % self._slots
            ends = flat["ends"].take(slots)
            ends[:, -1] = True
            before_last = ends.argmax(axis=1)
            last = (start + before_last * self.num_envs) % self._slots
            reward = flat["reward"].take(slots) * (steps <= before_last[:, None])
            length = before_last + 1
        return {
            "observation": flat["observation"].take(start, axis=0),
            "action": flat["action"].take(start, axis=0),
            "reward": reward,
            "length": length,
            "terminated": flat["terminated"].take(last),
            "next_observation": flat["next_observation"].take(last, axis=0),
        }


class PrioritizedReplayBuffer(ReplayBuffer):
    """Proportional prioritised replay (Schaul et al. 2016, "Prioritized Experience Replay").

    Transition i starts a segment with probability P(i) = p_i^alpha / sum_k p_k^alpha, stratified over the batch.

    Departure from the paper: the importance weights (count * P(i))^-beta are not divided by their maximum. The maximum
    of one batch, or of one shard's buffer, would weigh shards against each other, and K shards would no longer equal
    one batch. At beta = 1 the weighted mean over a batch is an unbiased estimate of the mean over the buffer.
    """

    def __init__(self, capacity: int, num_envs: int, rng: np.random.Generator, alpha: float, blocks: int = 1) -> None:
        super().__init__(capacity, num_envs, rng, blocks)
        self.alpha = alpha
        self._tree = SumTree(self._slots)
        self._largest = 1.0  # largest priority so far, which new transitions get

    def sample(self, batch_size: int, n_step: int, beta: float = 1.0) -> dict[str, Array]:
        """Draw segments by the priority of their first transition.

        Adds to `ReplayBuffer.sample`: weight [B] float32, and index [B] for `update_priorities`.
        """
        assert self._count > 0, "sample from an empty replay buffer"
        total = self._tree.total
        strata = (np.arange(batch_size) + self.rng.random(batch_size)) / batch_size
        index = self._tree.find(strata * total)
        probability = self._tree.values.take(index) / total
        rows = self._segments(index, n_step)
        rows["weight"] = ((self._count * probability) ** -beta).astype(np.float32)
        rows["index"] = index
        return rows

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

    def _set(self, slots: Array, priorities: Array) -> None:
        # Dead steps keep priority 0: the tree never finds them.
        self._tree.set(slots, (priorities + _SMALLEST_PRIORITY) ** self.alpha * self._flat["valid"].take(slots))


class SumTree:
    """Non-negative numbers with their sums over groups of 16, 256, ...; flat arrays, one for each level.

    Every sum is computed from its children, never adjusted, and always from left to right: no error accumulates, and
    the same numbers give the same sums to the last bit.
    """

    def __init__(self, size: int) -> None:
        self._levels: list[Array] = []  # leaves first; each padded with zeros to whole groups
        while not self._levels or size > 1:
            groups = -(-size // _FAN_OUT)
            self._levels.append(np.zeros(groups * _FAN_OUT))
            size = groups
        self._total = np.zeros(1)

    @property
    def values(self) -> Array:
        """The leaves, padded with zeros."""
        return self._levels[0]

    @property
    def total(self) -> float:
        """The sum of all leaves."""
        return float(self._total[0])

    @property
    def nbytes(self) -> int:
        """Bytes of all levels."""
        return sum(level.nbytes for level in self._levels)

    def set(self, index: Array, values: Array) -> None:
        """Assign leaves [M]; of equal indices the last one counts."""
        self._levels[0][index] = values
        for level, parents in zip(self._levels, [*self._levels[1:], self._total], strict=True):
            index = index // _FAN_OUT
            if len(index) > 1 and len(index) * 4 > len(parents):
                index = np.unique(index)
            parents[index] = level.reshape(-1, _FAN_OUT).take(index, axis=0).cumsum(axis=1)[:, -1]

    def find(self, targets: Array) -> Array:
        """Return the leaf [B] in which each target [B], 0 <= t < total, falls; never a leaf that is zero."""
        node = np.zeros(len(targets), dtype=np.int64)
        batch = np.arange(len(targets))
        for level in reversed(self._levels):
            sums = level.reshape(-1, _FAN_OUT).take(node, axis=0).cumsum(axis=1)
            # Rounding may carry a target to the very end of its group, where no child is left.
            targets = np.minimum(targets, np.nextafter(sums[:, -1], 0.0))
            child = (sums <= targets[:, None]).sum(axis=1)
            targets = targets - np.where(child > 0, sums[batch, child - 1], 0.0)
            node = node * _FAN_OUT + child
        return node
