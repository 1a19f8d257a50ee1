"""Replay: a ring buffer of true transitions, sampled as n-step segments or as sequences.

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

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rayloom.errors import UserError
from rayloom.memory import check_fits
from rayloom.sources.frame_store import FrameStore

Array = npt.NDArray[Any]

_FLAGS = ("reward", "terminated", "valid", "first")


class ReplayBuffer:
    """Uniform replay; `capacity` counts transitions over all environments. Arrays are made at the first `add`."""

    def __init__(
        self,
        capacity: int,
        num_envs: int,
        rng: np.random.Generator,
        blocks: int = 1,
        fields: Iterable[str] = (),
        frames: int = 1,
    ) -> None:
        """Lay out rows of `num_envs` environments, which belong to `blocks` writers in equal shares.

        `fields` are the extras of `act` that are kept. With `frames` > 1 observations are stacks [k, ...] of so many,
        of which each is stored once.
        """
        if capacity < num_envs:
            raise UserError(f"source.capacity: must be at least source.num_envs={num_envs}, not {capacity}")
        assert num_envs % blocks == 0
        self.num_envs = num_envs
        self.blocks = blocks
        self.fields = tuple(sorted(fields))
        # The oldest rows of a full ring have lost some frames of their stacks, and are never drawn.
        self._context = frames - 1
        self.rows = capacity // num_envs + self._context
        self.rng = rng
        self._slots = self.rows * num_envs
        self._arrays: dict[str, Array] = {}  # each [rows, N, ...]; "ends" marks where segments stop
        self._flat: dict[str, Array] = {}  # the same memory as [rows * N, ...]
        self._heads = [0] * blocks  # the row that each block writes next
        self._filled = [0] * blocks  # rows that each block has written
        self._count = 0  # valid transitions among them
        self._store: FrameStore | None = None
        self._observed: list[str] = []  # names of the observation's parts, and below of what was done
        self._done: list[str] = []
        self._newest_ends = np.ones(num_envs, dtype=np.bool_)  # true ends of episodes in the newest row

    def __len__(self) -> int:
        """Return the number of valid transitions stored."""
        return self._count

    def add(self, transitions: Mapping[str, Array], block: int | None = None) -> None:
        """Append a time-major chunk [T, N, ...] of observation, action, reward, next_observation, fields and the flags.

        The flags are terminated, truncated, valid and first; other keys are ignored. Everything is copied. With `block`
        the chunk [T, N / blocks, ...] belongs to the environments of that block alone.
        """
        if block is None and self.blocks > 1 and len(set(zip(self._heads, self._filled, strict=True))) > 1:
            for number in range(self.blocks):
                columns = self._columns(number)
                self.add({key: values[:, columns] for key, values in transitions.items()}, number)
            return
        steps = len(transitions["reward"])
        if not self._arrays:
            self._allocate(self._kept(transitions))
        if steps > self.rows:
            transitions = {key: values[-self.rows :] for key, values in transitions.items()}
            steps = self.rows
            for number in range(self.blocks) if block is None else (block,):
                self._filled[number] = self.rows  # all that was there will be gone
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

    def sample_sequences(self, batch_size: int, length: int, burn_in: int, whole: bool = False) -> dict[str, Array]:
        """Draw sequences that start at uniformly chosen valid transitions, or with `whole` episodes; see `_sequences`.

        With `whole` a sequence is one episode from its first step, of those whose first step is still stored.
        """
        if not whole:
            return self._sequences(self._draw_uniformly(batch_size), length, burn_in)
        starts = np.flatnonzero(self._flat["first"] & self._flat["valid"])
        if not starts.size:
            raise UserError(
                "source.whole_episodes: the buffer holds no episode's first step; raise source.capacity above the "
                "length of an episode times source.num_envs"
            )
        return self._sequences(starts[self.rng.integers(0, len(starts), size=batch_size)], length, burn_in, whole)

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
            **(self._store.state_dict() if self._store else {}),
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
            self._allocate({key: (values.shape[2:], values.dtype) for key, values in arrays.items() if key != "ends"})
            for key, values in arrays.items():
                self._arrays[key][: len(values)] = values
            self._count = int(np.count_nonzero(arrays["valid"]))
            if self._store:
                self._store.load_state_dict(state)

    @property
    def nbytes(self) -> int:
        """Bytes of everything that is kept."""
        return sum(values.nbytes for values in self._flat.values()) + (self._store.nbytes if self._store else 0)

    def _kept(self, transitions: Mapping[str, Array]) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Return shape and type of everything that the ring keeps of such transitions."""
        for name in self.fields:
            if name not in transitions:
                raise UserError(f"algorithm: replay_fields has {name!r}, which act does not return; remove it there")
        names = [name for name in transitions if name.partition(".")[0] in ("observation", "action")]
        if not self._context:
            names += [name for name in transitions if name.partition(".")[0] == "next_observation"]
        kept = {
            name: (transitions[name].shape[2:], transitions[name].dtype) for name in (*names, *self.fields, *_FLAGS)
        }
        if self._context:
            shape, dtype = kept["observation"]
            kept["observation"] = (shape[1:], dtype)
        return kept

    def _allocate(self, fields: Mapping[str, tuple[tuple[int, ...], Any]]) -> None:
        """Make the ring; zeros are pages that the system hands out when they are first written."""
        fields = {**fields, "ends": ((), np.bool_)}
        types = {key: np.dtype(np.float32 if dtype == np.float64 else dtype) for key, (_, dtype) in fields.items()}
        size = sum(self._slots * math.prod(shape) * types[key].itemsize for key, (shape, _) in fields.items())
        check_fits(size, "source.capacity", f"{self._slots:,} steps of replay")
        for key, (shape, _) in fields.items():
            stored = types[key]
            self._flat[key] = np.zeros((self._slots, *shape), dtype=stored)
            self._arrays[key] = self._flat[key].reshape(self.rows, self.num_envs, *shape)
        self._observed = [key for key in fields if key.partition(".")[0] == "observation"]
        self._done = [key for key in fields if key.partition(".")[0] == "action" or key in self.fields]
        if self._context:
            self._store = FrameStore(self._context + 1, self._arrays["observation"], self._arrays["first"])

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
        for key, values in arrays.items():
            if key != "ends" and not (self._store and key == "observation"):
                values[head:tail] = transitions[key][start:stop]
        if self._store:
            frame, successor = (transitions[key][start:stop, :, -1] for key in ("observation", "next_observation"))
            self._store.write(frame, successor, head, columns, follows=bool(filled))
        np.logical_or(transitions["terminated"][start:stop], transitions["truncated"][start:stop], out=ends[head:tail])
        self._newest_ends[columns] = ends[tail - 1]
        ends[tail - 1] = True
        self._count += int(np.count_nonzero(arrays["valid"][head:tail]))
        if self._context and filled == self.rows:
            self._forget((tail + np.arange(self._context)) % self.rows, columns)
        for number in range(self.blocks) if block is None else (block,):
            self._filled[number] = max(filled, tail)
            self._heads[number] = tail % self.rows

    def _forget(self, rows: Array, columns: slice) -> None:
        """Draw these rows no more: the oldest frames of their stacks are overwritten."""
        valid = self._arrays["valid"][:, columns]
        self._count -= int(np.count_nonzero(valid[rows]))
        valid[rows] = False

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
            **self._observations(start),
            **{name: flat[name].take(start, axis=0) for name in self._done},
            "reward": reward,
            "length": length,
            "terminated": flat["terminated"].take(last),
            **self._successors(last),
        }

    def _observations(self, slots: Array) -> dict[str, Array]:
        """Return the parts of the observations at slots [B]."""
        if self._store:
            return {"observation": self._store.stacks(slots)}
        return {name: self._flat[name].take(slots, axis=0) for name in self._observed}

    def _successors(self, slots: Array) -> dict[str, Array]:
        """Return the parts of the true successors of slots [B]."""
        if self._store:
            newest = (
                slots // self.num_envs == (self._of_environments(self._heads)[slots % self.num_envs] - 1) % self.rows
            )
            return {"next_observation": self._store.successors(slots, newest)}
        return {f"next_{name}": self._flat[f"next_{name}"].take(slots, axis=0) for name in self._observed}

    def _of_environments(self, of_blocks: Sequence[int]) -> Array:
        """Return a number of each block for each of its environments [N]."""
        return np.repeat(np.array(of_blocks), self.num_envs // self.blocks)

    def _sequences(self, start: Array, length: int, burn_in: int, whole: bool = False) -> dict[str, Array]:
        """Return the `length` steps from the slots `start` [B] on, and the `burn_in` steps before: [B, L, ...].

        They run over the ends of episodes, unless these are `whole`, to the newest row; steps before the start belong
        to its episode. `valid` marks steps that happened and are stored; everything else is 0 there. `first` marks
        those that begin an episode, `burn_in` those before the start, and `truncated` those after which the sequence
        does not go on although the state is not terminal: also at a barrier and at the newest row.
        """
        offsets = np.arange(-burn_in, length)
        slots = (start[:, None] + offsets * self.num_envs) % self._slots
        environment = start % self.num_envs
        heads, filled = (self._of_environments(values)[environment] for values in (self._heads, self._filled))
        position = (start // self.num_envs - np.where(filled == self.rows, heads, 0)) % self.rows
        in_time = position[:, None] + offsets
        first = self._flat["first"].take(slots)
        valid = self._flat["valid"].take(slots) & (in_time >= 0) & (in_time < filled[:, None])
        valid[:, :burn_in] &= ~np.logical_or.accumulate(first[:, burn_in:0:-1], axis=1)[:, ::-1]
        ends = self._flat["ends"].take(slots)
        if whole:
            valid[:, burn_in + 1 :] &= ~np.logical_or.accumulate(ends[:, burn_in:-1], axis=1)
        rows = {name: self._flat[name].take(slots, axis=0) for name in (*self._done, *_FLAGS)}
        for parts in (self._observations(slots.ravel()), self._successors(slots.ravel())):
            rows.update({name: values.reshape(*slots.shape, *values.shape[1:]) for name, values in parts.items()})
        rows |= {"truncated": ends & ~rows["terminated"], "first": first}
        for values in rows.values():
            values[~valid] = 0
        return {**rows, "valid": valid, "burn_in": np.broadcast_to(offsets < 0, slots.shape).copy()}
