"""What a data set is: three splits of the same fields and the description of one example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rayloom.contract import Spec, Table, TensorSpec
from rayloom.datasets.checks import as_table, check_table, tensor_of
from rayloom.datasets.digests import tables_digest
from rayloom.datasets.splits import SPLITS, SplitConfig, complete_splits, split_tables
from rayloom.datasets.tables import Columns, TensorTable
from rayloom.datasets.unlabelled import Reader, image_reader
from rayloom.errors import UserError


class Dataset:
    """Three disjoint splits of the same fields."""

    def __init__(
        self,
        train: Table | Columns,
        validation: Table | Columns,
        test: Table | Columns,
        spec: Spec,
        name: str = "",
        digest: str = "",
        reader: Reader | None = None,
    ) -> None:
        """Check the splits (tables, or tensors by name) against the spec; UserError where they do not fit.

        `digest` identifies the contents; empty: the hash of all rows, for which all of them are read. `reader` reads
        files without labels as these data were read; None: image files, where the data are images of bytes.
        """
        self.spec = spec
        """Shape, type and range of one example's fields; the names of categories."""
        self.train: Any = as_table("train", train)
        """Examples to learn from, a `Table`."""
        self.validation: Any = as_table("validation", validation)
        """Held-out examples for choices made during development, a `Table`."""
        self.test: Any = as_table("test", test)
        """Held-out examples for the last word only, a `Table`."""
        self.name = name
        """What the data are called."""
        for split in SPLITS:
            check_table(split, getattr(self, split), spec)
        self.digest = digest or tables_digest((self.train, self.validation, self.test))
        """SHA-256 that tells the contents from others; a run is resumed with the same one only."""
        self.reader = reader or image_reader(spec)
        """Reads files to predict; None where files like these data's own are unknown."""

    @classmethod
    def from_arrays(
        cls,
        train: Mapping[str, Any],
        validation: Mapping[str, Any] | None = None,
        test: Mapping[str, Any] | None = None,
        *,
        labels: Mapping[str, Sequence[str]] | Sequence[str] = (),
        splits: Mapping[str, float | Sequence[int] | npt.NDArray[Any] | Tensor] | None = None,
        name: str = "arrays",
    ) -> Dataset:
        """Build a data set from arrays or tensors [N, ...] by field name, as in a notebook.

        Integers become int64 and reals float32; bytes stay. `labels` names the categories of fields (of `label`, as a
        plain sequence). A split that is not given is cut from `train` as `splits` says: shares, as {"test": 0.2}, or
        row numbers; a tenth each by default. Shares never depend on a seed. UserError where something does not fit.
        """
        names = dict(labels) if isinstance(labels, Mapping) else ({"label": labels} if labels else {})
        given = {"train": train, "validation": validation, "test": test}
        tables = {
            split: TensorTable({field: tensor_of(split, field, values) for field, values in fields.items()})
            for split, fields in given.items()
            if fields is not None
        }
        spec = _describe(tables["train"], names)
        check_table("train", tables["train"], spec)
        if len(tables) < len(SPLITS):
            tables.update(_cut(tables, spec, dict(splits or {})))
        return cls(tables["train"], tables["validation"], tables["test"], spec, name)


def _describe(table: TensorTable, labels: Mapping[str, Sequence[str]]) -> Spec:
    spec = {}
    for field, tensor in table.columns.items():
        names = tuple(str(label) for label in labels.get(field, ()))
        category = names or (field == "label" and tensor.dtype == torch.int64)
        number = (len(names) or int(tensor.max()) + 1) if category and len(tensor) else None
        byte_range = tensor.dtype == torch.uint8
        size = tensor[0].numel() if len(tensor) else 0
        spec[field] = TensorSpec(
            shape=tuple(tensor.shape[1:]),
            dtype=tensor.dtype,
            num_values=number,
            low=(0.0,) * size if byte_range else None,
            high=(255.0,) * size if byte_range else None,
            labels=names,
        )
    unknown = sorted(set(labels) - set(spec))
    if unknown:
        raise UserError(f"labels: there is no field {unknown[0]!r}; name one of {', '.join(sorted(spec))}")
    return spec


def _cut(tables: Mapping[str, Any], spec: Spec, splits: dict[str, Any]) -> dict[str, Any]:
    """Return the tables that are cut from `train`."""
    table = tables["train"]
    unknown = sorted(set(splits) - set(SPLITS))
    if unknown:
        raise UserError(f"splits: there is no split {unknown[0]!r}; name {', '.join(SPLITS)}")
    shares: dict[str, Any] = {name: float(value) for name, value in splits.items() if isinstance(value, int | float)}
    rows = {name: np.asarray(value, dtype=np.int64) for name, value in splits.items() if name not in shares}
    for name, chosen in rows.items():
        if chosen.ndim != 1 or (len(chosen) and (chosen.min() < 0 or chosen.max() >= len(table))):
            raise UserError(f"splits: the rows of {name} must be a list of numbers 0 to {len(table) - 1}")
    held = np.concatenate([np.empty(0, np.int64), *rows.values()])
    if len(np.unique(held)) != len(held):
        raise UserError("splits: a row stands in two splits or twice in one; give each row to one split")
    rows.setdefault("train", np.setdiff1d(np.arange(len(table)), held))
    config = SplitConfig(validation=shares.get("validation", 0.1), test=shares.get("test", 0.1))
    given = {name: np.empty(0, np.int64) for name in tables if name != "train"}
    label = spec.get("label")
    classes = table["label"].numpy() if label is not None and label.num_values and not label.shape else None
    complete = complete_splits({**given, **rows}, config, classes)
    return {name: part for name, part in split_tables(table, complete).items() if name not in given}


def image_spec(shape: tuple[int, int, int], labels: Sequence[str]) -> Spec:
    """Describe a labelled image: uint8 [C, H, W] in 0..255 and its class."""
    elements = shape[0] * shape[1] * shape[2]
    return {
        "image": TensorSpec(shape=shape, dtype=torch.uint8, low=(0.0,) * elements, high=(255.0,) * elements),
        "label": TensorSpec(shape=(), dtype=torch.int64, num_values=len(labels), labels=tuple(labels)),
    }


def hold_out(columns: Columns, count: int) -> tuple[Columns, Columns]:
    """Cut tensors in memory by a permutation that never changes into all but `count` rows and the last `count`.

    NumPy freezes the stream of RandomState across versions, so the cut is the same on every machine, for every seed.
    """
    length = len(next(iter(columns.values())))
    order = torch.from_numpy(np.random.RandomState(0).permutation(length))
    kept, held = order[: length - count], order[length - count :]
    return (
        {name: tensor[kept] for name, tensor in columns.items()},
        {name: tensor[held] for name, tensor in columns.items()},
    )
