"""What is wrong with data, in one sentence: types, shapes, ranges and empty splits, checked when they are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rayloom.contract import Spec, Table, TensorSpec
from rayloom.datasets.tables import Columns, TensorTable, check_finite, in_memory
from rayloom.errors import UserError

_CHANNELS = (1, 3, 4)
_BATCH = 8192


def as_table(split: str, given: Any) -> Table:
    """Return a split as a table; UserError for what is neither a table nor tensors by name."""
    if isinstance(given, Mapping):
        for field, values in given.items():
            if isinstance(values, np.ndarray):
                raise UserError(
                    f"the field {field!r} of the {split} split is a NumPy array: wrap it in torch.from_numpy, or build "
                    f"the data set with Dataset.from_arrays"
                )
            if not isinstance(values, Tensor):
                raise UserError(
                    f"the field {field!r} of the {split} split is a {type(values).__name__}: make it a tensor [N, ...]"
                )
        return TensorTable(given)
    if not all(hasattr(given, method) for method in ("__len__", "rows", "batches")):
        raise UserError(
            f"the {split} split is a {type(given).__name__}: give tensors by name, or a table with rows and batches"
        )
    table: Table = given
    return table


def tensor_of(split: str, field: str, values: Any) -> Tensor:
    """Return an array or tensor [N, ...] in the type that a data set has: uint8, int64, float32 or bool."""
    try:
        tensor = values if isinstance(values, Tensor) else torch.from_numpy(np.ascontiguousarray(values))
    except TypeError:
        raise UserError(
            f"the field {field!r} of the {split} split has the type {np.asarray(values).dtype}: give numbers"
        ) from None
    if tensor.ndim == 0:
        raise UserError(f"the field {field!r} of the {split} split is one number: give one for each row")
    return tensor.to(tensor_dtype(tensor.dtype))


def tensor_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which a data set delivers numbers of a type."""
    if dtype in (torch.uint8, torch.bool):
        return dtype
    return torch.float32 if dtype.is_floating_point else torch.int64


def check_table(split: str, table: Table, spec: Spec) -> None:
    """Refuse a split that does not fit the spec: all rows of a table in memory, of another one the first.

    The rows of other tables are checked by those who read them.
    """
    if len(table) == 0:
        raise UserError(f"the {split} split is empty: give it rows, or a share of them")
    if isinstance(table, TensorTable):
        _check_rows(split, table.columns, spec, 0)
    elif in_memory(table):
        for number, batch in enumerate(table.batches(_BATCH)):
            _check_rows(split, batch, spec, number * _BATCH)
    else:
        _check_rows(split, table.rows(torch.zeros(1, dtype=torch.int64)), spec, 0)


def _check_rows(split: str, columns: Columns, spec: Spec, start: int) -> None:
    if set(columns) != set(spec):
        raise UserError(f"the {split} split has the fields {sorted(columns)}: return those of the spec, {sorted(spec)}")
    lengths = {len(tensor) for tensor in columns.values()}
    if len(lengths) != 1:
        raise UserError(f"the fields of the {split} split have different lengths {sorted(lengths)}: make them equal")
    for field, tensor in columns.items():
        _check_field(split, field, tensor, spec[field], start)


def _check_field(split: str, field: str, tensor: Tensor, spec: TensorSpec, start: int) -> None:
    shape = tuple(tensor.shape[1:])
    fits = shape == spec.shape or (spec.ragged and shape[1:] == spec.shape[1:] and shape[0] <= spec.shape[0])
    if not fits or tensor.dtype != spec.dtype:
        raise UserError(
            f"the field {field!r} of the {split} split is {tensor.dtype} {shape}: "
            f"make it {spec.dtype} {spec.shape} as the spec says{_channel_hint(shape, spec.shape)}"
        )
    check_channels(field, shape)
    check_finite(field, tensor, f"{split} split", torch.arange(start, start + len(tensor)))
    _check_categories(split, field, tensor, spec, start)


def check_channels(field: str, shape: tuple[int, ...]) -> None:
    """Refuse an image whose channels come last: [H, W, C] where [C, H, W] belongs."""
    if field == "image" and len(shape) == 3 and shape[2] in _CHANNELS and shape[0] not in _CHANNELS:
        raise UserError(
            f"the field 'image' has the shape {list(shape)}, so its channels come last: move them first, [C, H, W], as "
            f"images.permute(0, 3, 1, 2) does"
        )


def _channel_hint(shape: tuple[int, ...], expected: tuple[int, ...]) -> str:
    moved = len(shape) == 3 and (shape[2], *shape[:2]) == expected
    return " (its channels come last: move them first)" if moved else ""


def _check_categories(split: str, field: str, tensor: Tensor, spec: TensorSpec, start: int) -> None:
    """Refuse categories [N, ...] outside 0..num_values - 1: UserError names the row."""
    if spec.num_values is None or tensor.dtype not in (torch.int64, torch.uint8):
        return
    limit = torch.tensor(spec.num_values)
    bad = (tensor < 0) | (tensor >= (limit.view(spec.shape) if limit.ndim else limit))
    if bool(bad.any()):
        place = bad.nonzero()[0].tolist()
        value = int(tensor[tuple(place)])
        column = f", column {place[1]}" if len(place) > 1 and limit.ndim else ""
        most = int(limit.view(-1)[place[1]]) if len(place) > 1 and limit.ndim else int(limit.max())
        raise UserError(
            f"the field {field!r} of the {split} split has the category {value} in row {start + place[0]}{column}: "
            f"it must be 0 to {most - 1}"
        )
