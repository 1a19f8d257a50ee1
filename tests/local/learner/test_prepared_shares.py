"""What several learners prepare of a batch is what one prepares of it all."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from cases import TREES, case
from rayloom.runs.learner_role import LearnerRole


class _Place:
    """The place of one learner among three whose collective operations nobody calls."""

    world_size = 3

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def all_reduce(self, tensor: torch.Tensor) -> None:
        raise AssertionError("a batch is drawn by each learner alone")

    def sum_counts(self, counts: Sequence[int]) -> list[int]:
        raise AssertionError("a batch is drawn by each learner alone")


@pytest.mark.parametrize("name", [name for name in sorted(TREES) if TREES[name]["source"].get("kind") == "dataset"])
def test_the_prepared_shares_of_several_learners_are_the_prepared_batch(name: str) -> None:
    """With the noise that `prepare` draws: 64 examples are shared 21, 21 and 22."""
    alone = LearnerRole(case(name))
    roles = [LearnerRole(case(name), group=_Place(rank)) for rank in range(3)]
    for _ in range(2):
        whole = alone.learner._next(alone.source.next)
        shares = [role.learner._next(role.source.next) for role in roles]
        for key, value in whole.items():
            assert torch.equal(torch.cat([share[key] for share in shares]), value), key
    for role in (alone, *roles):
        role.close()
