"""The learners of a run as the collective operations that each of them needs.

Every learner calls the same operations in the same order; what they return is equal on all of them, so that all come to
the same decisions.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from rayloom.contract import Group as Group
from rayloom.timeline import Timeline


class SingleLearner:
    """The group of a run with one learner."""

    rank = 0
    world_size = 1

    def all_reduce(self, tensor: Tensor) -> None:
        """Leave the tensor as it is: it already is the sum."""

    def sum_counts(self, counts: Sequence[int]) -> list[int]:
        """Return the counts: they already are the sums."""
        return list(counts)


class TimedGroup:
    """A group whose operations count as `reduce`."""

    def __init__(self, group: Group, timeline: Timeline) -> None:
        self.rank, self.world_size = group.rank, group.world_size
        self._group, self._timeline = group, timeline

    def all_reduce(self, tensor: Tensor) -> None:
        """Sum the tensor over all learners, in place."""
        before = self._timeline.begin("reduce")
        self._group.all_reduce(tensor)
        self._timeline.begin(before)

    def sum_counts(self, counts: Sequence[int]) -> list[int]:
        """Return the sums of whole numbers over all learners."""
        before = self._timeline.begin("reduce")
        sums = self._group.sum_counts(counts)
        self._timeline.begin(before)
        return sums
