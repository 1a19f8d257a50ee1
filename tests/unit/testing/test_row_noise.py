"""Inside `RowNoise` the shards of a batch draw what the whole batch draws, and it is noise."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rayloom.testing.row_noise import RowNoise

DRAWS: dict[str, Callable[[int], Tensor]] = {
    "randn": lambda rows: torch.randn(rows, 3),
    "randn_like": lambda rows: torch.randn_like(torch.empty(rows, 2, 2)),
    "rand": lambda rows: torch.rand((rows, 3)),
    "rand_like": lambda rows: torch.rand_like(torch.empty(rows)),
    "normal_": lambda rows: torch.empty(rows, 17).normal_(),
    "uniform_": lambda rows: torch.empty(rows, 3).uniform_(),
    "exponential_": lambda rows: torch.empty(rows, 3).exponential_(),
    "bernoulli": lambda rows: torch.bernoulli(torch.full((rows, 3), 0.3)),
    "dropout": lambda rows: torch.dropout(torch.ones(rows, 5), 0.3, True),
}


@pytest.mark.parametrize("name", DRAWS)
def test_shards_draw_the_rows_of_the_whole(name: str) -> None:
    draw = DRAWS[name]
    with RowNoise() as noise:
        noise.shard(0, 32)
        whole = draw(32), draw(32)
        parts = []
        for start, end in ((0, 5), (5, 6), (6, 32)):
            noise.shard(start, end - start)
            parts.append((draw(end - start), draw(end - start)))
    assert torch.equal(torch.cat([first for first, _ in parts]), whole[0])
    assert torch.equal(torch.cat([second for _, second in parts]), whole[1])
    assert not torch.equal(*whole)


def test_it_is_noise() -> None:
    with RowNoise() as noise:
        noise.shard(0, 2000)
        normal, uniform, kept = (
            torch.randn(2000, 4),
            torch.rand(2000, 4),
            torch.dropout(torch.ones(2000, 4), 0.25, True),
        )
    # Five standard errors of 8,000 draws.
    assert abs(float(normal.mean())) < 0.056 and float(normal.std()) == pytest.approx(1.0, abs=0.04)
    assert (
        float(uniform.mean()) == pytest.approx(0.5, abs=0.017) and 0 <= float(uniform.min()) < float(uniform.max()) < 1
    )
    assert float((kept > 0).float().mean()) == pytest.approx(0.75, abs=0.025) and float(kept.max()) == pytest.approx(
        4 / 3
    )
