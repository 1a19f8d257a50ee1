"""What a data set must hold to: it is the same whenever it is loaded, and a row is the same however it is asked for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rayloom.config.schema import RunConfig
from rayloom.contract import Batch, Table
from rayloom.datasets.splits import SPLITS
from rayloom.runs.learner_role import load_run_dataset
from rayloom.seeding import seed_process
from rayloom.testing.failures import require

_ROWS = 7
_BATCH = 3


def data_repeat(config: RunConfig) -> str | None:
    """Check that a data set is the same each time it is loaded, and each row however it is asked for."""
    dataset = load_run_dataset(config)
    if dataset is None:
        return "its source has no data set"
    seed_process(99, "another process")
    again = load_run_dataset(config)
    assert again is not None
    require(
        dataset.digest == again.digest,
        f"the data set {dataset.name} is another one each time it is loaded: draw from the seed that it is given, "
        "never from a global generator",
    )
    for split in SPLITS:
        _check_table(split, getattr(dataset, split), getattr(again, split))
    return None


def _check_table(split: str, table: Table, again: Table) -> None:
    length = len(table)
    require(length == len(again), f"{split} has {length} rows, loaded anew {len(again)}")
    if not length:
        return
    indices = torch.linspace(0, length - 1, min(_ROWS, length)).long()
    rows = table.rows(indices)
    _compare(split, rows, again.rows(indices), "loaded anew")
    _compare(split, _at(table.rows(indices.flip(0)), slice(None)), rows, "asked for in another order", flipped=True)
    for place, index in enumerate(indices):
        _compare(split, table.rows(index[None]), _at(rows, slice(place, place + 1)), "asked for alone", padded=True)
    kept = {name: value.clone() for name, value in rows.items()}
    for value in table.rows(indices).values():
        value.zero_()
    _compare(split, table.rows(indices), kept, "asked for after a batch was changed in place (return copies)")
    first = next(iter(table.batches(_BATCH)))
    expected = table.rows(torch.arange(min(_BATCH, length)))
    _compare(split, first, expected, "read by batches")


def _at(batch: Batch, place: slice) -> Batch:
    return {name: value[place] for name, value in batch.items()}


def _compare(split: str, found: Any, expected: Batch, how: str, flipped: bool = False, padded: bool = False) -> None:
    """Require equal rows; `padded` allows an example alone to be shorter than among others, by zeros."""
    missing = sorted(set(expected) ^ set(found))
    require(not missing, f"{split}: the field {(missing or [''])[0]!r} is there or not, {how}")
    for name, theirs in expected.items():
        mine: Tensor = found[name].flip(0) if flipped else found[name]
        if padded and mine.ndim > 1 and mine.shape[1] < theirs.shape[1]:
            require(not bool(theirs[:, mine.shape[1] :].any()), f"{split}: padding of {name!r} is not zero")
            theirs = theirs[:, : mine.shape[1]]
        equal = mine.shape == theirs.shape and mine.dtype == theirs.dtype and torch.equal(mine, theirs)
        require(equal, f"{split}: the field {name!r} is another one {how}")
