"""Data sets of sequences of unequal length, made from lists of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor

from rayloom.contract import TensorSpec
from rayloom.datasets import Dataset, RaggedTable, Subset


@dataclass(frozen=True, kw_only=True)
class SizeConfig:
    """How many examples to generate."""

    train_size: Annotated[int, Ge(1), Le(10_000_000)] = 4000
    """Examples to learn from."""
    validation_size: Annotated[int, Ge(1), Le(10_000_000)] = 500
    """Held-out examples for development."""
    test_size: Annotated[int, Ge(1), Le(10_000_000)] = 500
    """Held-out examples for the last word."""

    @property
    def total(self) -> int:
        """Examples of all splits."""
        return self.train_size + self.validation_size + self.test_size


def ragged_dataset(
    name: str,
    sizes: SizeConfig,
    rows: Mapping[str, Sequence[Tensor]],
    labels: Mapping[str, tuple[str, ...]],
    columns: Mapping[str, tuple[Tensor, TensorSpec]] | None = None,
) -> Dataset:
    """Return the first rows as training split, the next as validation split, the last as test split.

    `rows`: sequences [L, ...] of each ragged field; `labels`: the names of the categories of those that hold numbers of
    categories. `columns`: fields of fixed shape with their specification.
    """
    fixed = columns or {}
    table = RaggedTable(
        {field: _joined(found) for field, found in rows.items()},
        {field: values for field, (values, _) in fixed.items()},
    )
    spec = {field: described for field, (_, described) in fixed.items()}
    for field, found in rows.items():
        names = labels.get(field, ())
        shape = (max(map(len, found)), *found[0].shape[1:])
        values = len(names) or None
        spec[field] = TensorSpec(shape=shape, dtype=found[0].dtype, num_values=values, labels=names, ragged=True)
        spec[f"{field}_length"] = TensorSpec(shape=(), dtype=torch.int64)
    cuts = torch.arange(sizes.total).tensor_split([sizes.train_size, sizes.train_size + sizes.validation_size])
    train, validation, test = (Subset(table, numbers) for numbers in cuts)
    return Dataset(train, validation, test, spec, name)


def _joined(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the values of all rows, one after the other, and where each row begins."""
    return torch.cat(list(rows)), torch.tensor([0, *map(len, rows)]).cumsum(0)
