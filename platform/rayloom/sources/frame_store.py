"""Stacks of frames of which each frame is stored once.

Consecutive stacks share all but one frame, and the successor of a step is, as a rule, the observation of the next one.
So the ring keeps the newest frame of every observation, and a stack is gathered from the rows before it, back to the
first step of its episode, whose frame is repeated. Only where a successor is not the next row's observation (the
episode ended, or its environment was reset) is it kept apart; that of the newest row always is, as the next row is not
there yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class FrameStore:
    """Gathers stacks of `frames` from a ring [rows, N, ...] that keeps one frame a step, and keeps the successors."""

    def __init__(self, frames: int, observation: Array, first: Array) -> None:
        """`observation` [rows, N, ...] and `first` [rows, N] are the ring's own arrays."""
        self.frames = frames
        self._ring = observation
        rows, self._num_envs = first.shape
        self._slots = rows * self._num_envs
        self._observation = observation.reshape(self._slots, *observation.shape[2:])
        self._first = first.reshape(-1)
        self._apart = np.zeros(first.shape, np.bool_)  # whose successor is in `_successors`
        self._successors: dict[int, Array] = {}  # by slot
        self._newest = np.zeros(observation.shape[1:], observation.dtype)  # successors of the newest rows

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept besides the ring."""
        return self._apart.nbytes + self._newest.nbytes + sum(frame.nbytes for frame in self._successors.values())

    def write(self, observation: Array, successor: Array, head: int, columns: slice, follows: bool) -> None:
        """Write frames [T, n, ...] at row `head`; `follows` tells whether there is a row before it."""
        tail = head + len(observation)
        first_column = columns.start or 0
        for t, n in zip(*np.nonzero(self._apart[head:tail, columns]), strict=True):
            del self._successors[(head + int(t)) * self._num_envs + first_column + int(n)]
        self._apart[head:tail, columns] = False
        before = self._newest[None, columns]
        # Compared, not assumed: a reset may lie between any two rows.
        expected = np.concatenate((before, successor[:-1]))
        differs = (expected != observation).reshape(*observation.shape[:2], -1).any(axis=2)
        for t, n in zip(*np.nonzero(differs), strict=True):
            if t or follows:
                row = (head + int(t) - 1) % len(self._ring)
                self._apart[row, first_column + n] = True
                self._successors[row * self._num_envs + first_column + int(n)] = expected[t, n].copy()
        self._ring[head:tail, columns] = observation
        self._newest[columns] = successor[-1]

    def stacks(self, slots: Array) -> Array:
        """Return the observations [B, k, ...] at slots [B]."""
        back = self._slots_back(slots)
        allowed = np.cumprod(~self._first.take(back[:, :-1]), axis=1)
        depth = np.concatenate((np.zeros((len(slots), 1), np.int64), allowed.cumsum(axis=1)), axis=1)
        chosen = np.take_along_axis(back, depth, axis=1)
        found: Array = self._observation.take(chosen[:, ::-1], axis=0)
        return found

    def successors(self, slots: Array, newest: Array) -> Array:
        """Return the successors [B, k, ...] of slots [B]; `newest` [B] marks those in the newest rows."""
        frame = self._observation.take((slots + self._num_envs) % self._slots, axis=0)
        for place in np.flatnonzero(newest):
            frame[place] = self._newest[slots[place] % self._num_envs]
        for place in np.flatnonzero(self._apart.reshape(-1).take(slots) & ~newest):
            frame[place] = self._successors[int(slots[place])]
        return np.concatenate((self.stacks(slots)[:, 1:], frame[:, None]), axis=1)

    def _slots_back(self, slots: Array) -> Array:
        back: Array = (slots[:, None] - np.arange(self.frames) * self._num_envs) % self._slots
        return back

    def state_dict(self) -> dict[str, Any]:
        """Return the successors that are kept apart, in the order of their slots, and those of the newest rows."""
        slots = sorted(self._successors)
        frames = np.zeros((len(slots), *self._newest.shape[1:]), self._newest.dtype)
        for place, slot in enumerate(slots):
            frames[place] = self._successors[slot]
        apart = {"slots": np.array(slots, np.int64), "frames": frames}
        return {"successors": apart, "newest_successors": self._newest.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned; the ring's own arrays are restored by their owner."""
        self._newest[:] = state["newest_successors"]
        slots, frames = (np.asarray(state["successors"][name]) for name in ("slots", "frames"))
        self._successors = {int(slot): frame.copy() for slot, frame in zip(slots, frames, strict=True)}
        self._apart[:] = False
        self._apart.reshape(-1)[slots] = True
