"""What the engine hands a source, for tests that make one by themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from rayloom.contract import Algorithm, Group, Source, SourceContext
from rayloom.learner.group import SingleLearner
from rayloom.seeding import derive_seed


class Learners:
    """One of several learners, who have nothing to add up."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size

    def all_reduce(self, tensor: torch.Tensor) -> None:
        raise AssertionError("a data set needs no collectives")

    def sum_counts(self, counts: Sequence[int]) -> list[int]:
        raise AssertionError("a data set needs no collectives")


def context_of(
    algorithm: Algorithm,
    batch_size: int,
    *,
    pool: Any = None,
    data: Any = None,
    seed: int = 0,
    group: Group | None = None,
) -> SourceContext:
    """Return the context of a source on the CPU whose part of a batch is the whole batch."""
    return SourceContext(
        algorithm=algorithm,
        batch_size=batch_size,
        global_batch_size=batch_size,
        seed=seed,
        derive_seed=partial(derive_seed, seed, "source"),
        device=torch.device("cpu"),
        group=group or SingleLearner(),
        pool=pool,
        data=data,
    )


def reach_barrier(source: Source, pool: Any) -> None:
    """Bring a source and its workers to a barrier, as their learner does."""
    source.barrier()
    pool.barrier()


def saved(source: Source, pool: Any) -> dict[str, Any]:
    """Return the state of a source and its workers."""
    return {"source": source.state_dict(), "pool": pool.state_dict()}


def restore(source: Source, pool: Any, state: Mapping[str, Any]) -> None:
    """Restore a source and its workers."""
    pool.load_state_dict(state["pool"])
    source.load_state_dict(state["source"])
