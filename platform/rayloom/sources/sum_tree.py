"""Non-negative numbers that can be drawn in proportion to their size."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

# Children of one node: few levels, each a handful of NumPy calls over the whole batch.
_FAN_OUT = 16


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
