"""Which rows are for training, validation and test: row numbers, the same for every seed of a run.

A data set that is split in its files keeps those splits; what is missing is cut from the rows for training by a
permutation of NumPy's RandomState, whose stream is frozen across versions and machines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from annotated_types import Ge, Lt

from rayloom.contract import Table
from rayloom.datasets.tables import Subset

SPLITS = ("train", "validation", "test")
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """How rows are held out where the data are not split already."""

    validation: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Share of the rows that is held out for development."""
    test: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Share of the rows that is held out for the last word."""
    split_seed: Annotated[int, Ge(0), Lt(2**32)] = 0
    """Chooses the rows; the run's seed does not, so that runs of different seeds are tested on the same rows."""


def complete_splits(given: Mapping[str, Rows], config: Any, classes: npt.NDArray[Any] | None = None) -> dict[str, Rows]:
    """Return the row numbers of all three splits: those given, the others cut from those of `train`.

    `classes` holds a category of every row of the data set; then each split gets its share of every one of them.
    """
    rows = dict(given)
    available = np.sort(rows["train"])
    shares = {name: getattr(config, name) for name in SPLITS[1:] if name not in rows}
    random = np.random.RandomState(config.split_seed)
    groups = [available]
    if classes is not None:
        groups = [available[classes[available] == value] for value in np.unique(classes[available])]
    taken: dict[str, list[Rows]] = {name: [] for name in ("train", *shares)}
    for group in groups:
        order, start = group[random.permutation(len(group))], 0
        for name, share in shares.items():
            count = min(round(share * len(group)), max(0, len(group) - 1 - start))
            taken[name].append(order[start : start + count])
            start += count
        taken["train"].append(order[start:])
    rows.update({name: np.sort(np.concatenate(parts)) for name, parts in taken.items()})
    return {name: rows[name] for name in SPLITS}


def split_tables(table: Table, rows: Mapping[str, Rows]) -> dict[str, Table]:
    """Return the splits of a table as choices of its rows."""
    return {name: Subset(table, torch.from_numpy(np.ascontiguousarray(chosen))) for name, chosen in rows.items()}
