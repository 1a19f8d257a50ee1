"""Rows of a data set: in memory, in memory maps, of unequal length, or a choice of another table's rows.

    source --rows(indices)--> table --> named tensors [B, ...] on the CPU

A split is a table. A hold-out is a `Subset`, row numbers beside the table, so that nothing is copied.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from rayloom.contract import Batch, Table
from rayloom.errors import UserError

Columns = Mapping[str, Tensor]
"""Named tensors that share their first dimension [N, ...]: image uint8, label int64, point float32."""


class RowTable(ABC):
    """Base class of tables: subclasses give their length and any of their rows."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of rows."""

    @abstractmethod
    def rows(self, indices: Tensor) -> Batch:
        """Return the rows of the indices [B] (int64, on the CPU), on the CPU."""

    def batches(self, size: int) -> Iterator[Batch]:
        """Yield all rows in order, `size` at a time (the last ones may be fewer)."""
        for start in range(0, len(self), size):
            yield self.rows(torch.arange(start, min(start + size, len(self))))

    @property
    def in_memory(self) -> bool:
        """Whether reading a row touches neither a file nor a decoder."""
        return False

    @property
    def lengths(self) -> Mapping[str, Tensor]:
        """Lengths [N] (int64) of each ragged field; batches are formed of rows that are alike in the first of them."""
        return {}

    @property
    def consecutive(self) -> bool:
        """Whether each row goes on where the one before it ends, so that all of them are one long text."""
        return False


class TensorTable(RowTable):
    """Rows of tensors [N, ...] in memory; `table["label"]` is a whole column."""

    def __init__(self, columns: Columns) -> None:
        self.columns = dict(columns)
        """The tensors by name."""

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(next(iter(self.columns.values()), ()))

    def __getitem__(self, name: str) -> Tensor:
        """Return a column [N, ...]."""
        return self.columns[name]

    def rows(self, indices: Tensor) -> Batch:
        """Return copies of the rows."""
        return {name: column.index_select(0, indices) for name, column in self.columns.items()}

    def batches(self, size: int) -> Iterator[Batch]:
        """Yield views of the rows."""
        for start in range(0, len(self), size):
            yield {name: column[start : start + size] for name, column in self.columns.items()}

    @property
    def in_memory(self) -> bool:
        """True."""
        return True


class ArrayTable(RowTable):
    """Rows of NumPy arrays [N, ...], usually memory maps, of which no more is read than is asked for.

    Real columns are checked to be finite as they are read: UserError names field and row.
    """

    def __init__(self, arrays: Mapping[str, npt.NDArray[Any]], dtypes: Mapping[str, torch.dtype] | None = None) -> None:
        """Deliver the arrays as tensors of `dtypes`, of their own types where it names none."""
        self._arrays = dict(arrays)
        self._dtypes = dict(dtypes or {})

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(next(iter(self._arrays.values())))

    def rows(self, indices: Tensor) -> Batch:
        """Return copies of the rows."""
        chosen = indices.numpy()
        batch = {}
        for name, array in self._arrays.items():
            tensor = torch.from_numpy(np.ascontiguousarray(array[chosen]))
            dtype = self._dtypes.get(name, tensor.dtype)
            batch[name] = tensor if tensor.dtype == dtype else tensor.to(dtype)
            check_finite(name, batch[name], "arrays", indices)
        return batch

    @property
    def in_memory(self) -> bool:
        """Whether no array is a memory map."""
        return not any(isinstance(array, np.memmap) for array in self._arrays.values())


class RaggedTable(RowTable):
    """Sequences of unequal length, padded with zeros to the longest one asked for.

    `rows` gives `<name>` [B, L, ...] and `<name>_length` [B] (int64) for every ragged field.
    """

    def __init__(self, ragged: Mapping[str, tuple[Tensor, Tensor]], columns: Columns) -> None:
        """Take (values [total, ...], offsets [N + 1]) of each ragged field, and the other columns [N, ...]."""
        self._ragged = dict(ragged)
        self._columns = dict(columns)
        self._lengths = {name: offsets.diff() for name, (_, offsets) in self._ragged.items()}

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(next(iter(self._lengths.values())))

    def rows(self, indices: Tensor) -> Batch:
        """Return the rows, padded."""
        batch = {name: column.index_select(0, indices) for name, column in self._columns.items()}
        for name, (values, offsets) in self._ragged.items():
            starts, length = offsets[indices], offsets[indices + 1] - offsets[indices]
            longest = int(length.max()) if len(length) else 0
            places = torch.arange(longest)
            inside = places < length[:, None]
            picked = values[(starts[:, None] + places).masked_fill_(~inside, 0)] if len(values) else None
            padded = values.new_zeros((len(indices), longest, *values.shape[1:]))
            if picked is not None:
                padded[inside] = picked[inside]
            batch[name], batch[f"{name}_length"] = padded, length
        return batch

    @property
    def in_memory(self) -> bool:
        """True."""
        return True

    @property
    def lengths(self) -> Mapping[str, Tensor]:
        """Lengths of the ragged fields."""
        return self._lengths


class Subset(RowTable):
    """Some rows of another table, by number."""

    def __init__(self, table: Table, indices: Tensor) -> None:
        self._table = table
        self._indices = indices

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._indices)

    def rows(self, indices: Tensor) -> Batch:
        """Return the rows."""
        return self._table.rows(self._indices[indices])

    @property
    def in_memory(self) -> bool:
        """Whether the other table is in memory."""
        return in_memory(self._table)

    @property
    def lengths(self) -> Mapping[str, Tensor]:
        """Lengths of the chosen rows."""
        return {name: lengths[self._indices] for name, lengths in lengths_of(self._table).items()}


def in_memory(table: Table) -> bool:
    """Return whether reading rows takes no time worth a thread; False for a table of the user's own kind."""
    return isinstance(table, RowTable) and table.in_memory


def lengths_of(table: Table) -> Mapping[str, Tensor]:
    """Return the lengths [N] of a table's ragged fields."""
    return table.lengths if isinstance(table, RowTable) else {}


def pad_to(tensor: Tensor, length: int) -> Tensor:
    """Return [B, L, ...] filled up with zeros to [B, length, ...]."""
    missing = length - tensor.shape[1]
    return F.pad(tensor, (0, 0) * (tensor.ndim - 2) + (0, missing)) if missing else tensor


def check_finite(name: str, tensor: Tensor, where: str, indices: Tensor) -> None:
    """Raise UserError with field and row where a real tensor [B, ...], rows `indices` of `where`, is not finite."""
    if not tensor.is_floating_point() or bool(torch.isfinite(tensor).all()):
        return
    bad = int((~torch.isfinite(tensor.reshape(len(tensor), -1))).any(dim=1).nonzero()[0])
    raise UserError(
        f"the field {name!r} of the {where} is not finite in row {int(indices[bad])}: remove or fill such values"
    )
