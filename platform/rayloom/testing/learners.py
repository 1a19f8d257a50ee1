"""Several learners in one process: threads that meet at every collective operation."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_DEADLINE_S = 60.0


class _Meeting:
    def __init__(self, world_size: int) -> None:
        self.barrier = threading.Barrier(world_size)
        self.parts: list[Any] = [None] * world_size

    def exchange(self, rank: int, part: Any) -> list[Any]:
        self.parts[rank] = part
        self.barrier.wait(_DEADLINE_S)
        parts = list(self.parts)
        self.barrier.wait(_DEADLINE_S)
        return parts


class SimulatedGroup:
    """One learner's place among those of this process."""

    def __init__(self, rank: int, world_size: int, meeting: _Meeting) -> None:
        """Use `simulated_group`."""
        self.rank, self.world_size, self._meeting = rank, world_size, meeting

    def all_reduce(self, tensor: Tensor) -> None:
        """Sum the tensor over all learners, in place; threading.BrokenBarrierError when one is missing for a minute."""
        parts = self._meeting.exchange(self.rank, tensor.clone())
        tensor.copy_(torch.stack(parts).sum(0))

    def sum_counts(self, counts: Sequence[int]) -> list[int]:
        """Return the sums of whole numbers over all learners."""
        return [sum(column) for column in zip(*self._meeting.exchange(self.rank, list(counts)), strict=True)]

    def leave(self) -> None:
        """Let the others fail at once instead of waiting."""
        self._meeting.barrier.abort()


def simulated_group(world_size: int) -> list[SimulatedGroup]:
    """Return the places of so many learners, each to be used by a thread of its own."""
    meeting = _Meeting(world_size)
    return [SimulatedGroup(rank, world_size, meeting) for rank in range(world_size)]


def simulate(world_size: int, learn: Callable[[SimulatedGroup], Any]) -> list[Any]:
    """Run `learn` for every learner at once and return what each returned; the first exception is raised here."""
    results: list[Any] = [None] * world_size
    errors: list[BaseException] = []

    def be(group: SimulatedGroup) -> None:
        try:
            results[group.rank] = learn(group)
        except threading.BrokenBarrierError as error:
            errors.append(error)
        except BaseException as error:  # noqa: BLE001  raised again by `simulate`
            errors.insert(0, error)
            group.leave()

    threads = [threading.Thread(target=be, args=(group,)) for group in simulated_group(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results
