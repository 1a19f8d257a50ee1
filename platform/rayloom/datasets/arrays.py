"""Arrays in NumPy's files: one .npz, or a folder of .npy files, which stay on the disk as memory maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from annotated_types import Ge

from rayloom.components import component
from rayloom.contract import Batch, Spec, TensorSpec
from rayloom.datasets.checks import check_channels, tensor_dtype
from rayloom.datasets.dataset import Dataset
from rayloom.datasets.digests import combined_digest, files_digest
from rayloom.datasets.folders import split_folders
from rayloom.datasets.splits import SPLITS, Rows, SplitConfig, complete_splits
from rayloom.datasets.tables import ArrayTable, RowTable, Subset, TensorTable
from rayloom.errors import UserError

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class ArraysConfig(SplitConfig):
    """Your NumPy arrays [N, ...]: one .npz file, or a folder of .npy files, each of them a field."""

    path: str
    """An .npz file whose names are the fields; or a folder of files FIELD.npy, or of the folders train, validation and
    test that hold them."""
    labels: tuple[str, ...] = ()
    """Names of the classes of the field `label`, in their order; empty: their numbers."""
    channels_last: bool = False
    """Whether the field `image` is [N, H, W, C] and not [N, C, H, W]."""
    memory_mib: Annotated[float, Ge(0)] = 1024.0
    """Splits of more than this stay on the disk (unit: MiB)."""


@dataclass(frozen=True)
class _Part:
    """The arrays of one folder or file."""

    arrays: Arrays
    files: list[tuple[str, Path]] = field(default_factory=list)


@component("data set", ArraysConfig)
def load_arrays(config: ArraysConfig, seed: int) -> Dataset:
    """Return the arrays as tensors: integers int64, reals float32, bytes as they are. Never reads pickled objects."""
    root = Path(config.path)
    if root.is_file() and root.suffix == ".npz":
        parts = {"train": _read_npz(root)}
    elif root.is_dir():
        parts = {name: _map_folder(root, folder) for name, folder in split_folders(root).items()}
    else:
        raise UserError(f"source.dataset.path: {root} is neither an .npz file nor a folder of .npy files")
    for name, part in parts.items():
        _check_arrays(name, part.arrays, config)
    spec = _describe(parts["train"].arrays, config)
    for name, part in parts.items():
        _check_labels(name, part.arrays, spec)
    tables = {name: _table(part.arrays, config) for name, part in parts.items()}
    if len(parts) < len(SPLITS):
        tables = _cut(tables, parts, spec, config)
    files = [file for part in parts.values() for file in part.files]
    digest = combined_digest(files_digest(files), config.channels_last, config.validation, config.test,
                             config.split_seed)  # fmt: skip
    return Dataset(tables["train"], tables["validation"], tables["test"], spec, root.stem, digest)


def _cut(
    tables: Mapping[str, RowTable], parts: Mapping[str, _Part], spec: Spec, config: ArraysConfig
) -> dict[str, RowTable]:
    arrays = parts["train"].arrays
    count = len(next(iter(arrays.values())))
    classes = np.asarray(arrays["label"]) if "label" in spec and spec["label"].num_values else None
    given: dict[str, Rows] = {name: np.empty(0, np.int64) for name in tables}
    rows = complete_splits({**given, "train": np.arange(count)}, config, classes)
    cut = {name: Subset(tables["train"], torch.from_numpy(rows[name])) for name in SPLITS if name not in tables}
    return {**tables, **cut, "train": Subset(tables["train"], torch.from_numpy(rows["train"]))}


def _read_npz(path: Path) -> _Part:
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    return _Part(arrays, [(path.name, path)])


def _map_folder(root: Path, folder: Path) -> _Part:
    files = sorted(folder.glob("*.npy"))
    if not files:
        raise UserError(f"source.dataset.path: {folder} has no .npy files: save one for each field, as image.npy")
    arrays = {}
    for path in files:
        try:
            arrays[path.stem] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise _unreadable(path, error) from None
    return _Part(arrays, [(path.relative_to(root).as_posix(), path) for path in files])


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = "it holds Python objects" if "bject" in str(error) else type(error).__name__
    return UserError(f"{path} cannot be read as plain arrays ({reason}): save numbers with numpy.save or numpy.savez")


def _check_arrays(split: str, arrays: Arrays, config: ArraysConfig) -> None:
    lengths = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"the fields of the {split} split have different lengths {lengths}: make them equal")
    for name, array in arrays.items():
        if array.dtype.kind not in "buif":
            raise UserError(f"the field {name!r} of the {split} split has the type {array.dtype}: save numbers")
        if not (name == "image" and config.channels_last):
            check_channels(name, array.shape[1:])


def _check_labels(split: str, arrays: Arrays, spec: Spec) -> None:
    if "label" not in spec or spec["label"].num_values is None:
        return
    label, limit = arrays.get("label", np.empty(0)), spec["label"].categories
    bad = np.flatnonzero((label < 0) | (label >= limit))
    if len(bad):
        raise UserError(
            f"the field 'label' of the {split} split has the class {label[bad[0]]} in row {bad[0]}: it must be 0 to "
            f"{limit - 1}"
        )


def _describe(arrays: Arrays, config: ArraysConfig) -> Spec:
    spec = {}
    for name, array in arrays.items():
        dtype = tensor_dtype(torch.from_numpy(np.empty(0, array.dtype)).dtype)
        shape = array.shape[1:]
        if name == "image" and config.channels_last and len(shape) == 3:
            shape = (shape[2], *shape[:2])
        category = name == "label" and dtype == torch.int64 and not shape and len(array)
        size = int(np.prod(shape)) if dtype == torch.uint8 else 0
        spec[name] = TensorSpec(
            shape=tuple(shape),
            dtype=dtype,
            num_values=(len(config.labels) or int(array.max()) + 1) if category else None,
            labels=config.labels if category else (),
            low=(0.0,) * size if size else None,
            high=(255.0,) * size if size else None,
        )
    return spec


class _ChannelsFirst(RowTable):
    """Moves the channels of `image` from the last place to the first."""

    def __init__(self, table: RowTable) -> None:
        self._table = table

    def __len__(self) -> int:
        return len(self._table)

    def rows(self, indices: torch.Tensor) -> Batch:
        batch = self._table.rows(indices)
        return {**batch, "image": batch["image"].permute(0, 3, 1, 2).contiguous()}

    @property
    def in_memory(self) -> bool:
        return self._table.in_memory


def _table(arrays: Arrays, config: ArraysConfig) -> RowTable:
    dtypes = {name: tensor_dtype(torch.from_numpy(np.empty(0, array.dtype)).dtype) for name, array in arrays.items()}
    table: RowTable = ArrayTable(arrays, dtypes)
    if config.channels_last and "image" in arrays:
        table = _ChannelsFirst(table)
    size = sum(len(array) * int(np.prod(array.shape[1:])) * dtypes[name].itemsize for name, array in arrays.items())
    return TensorTable(table.rows(torch.arange(len(table)))) if size <= config.memory_mib * 2**20 else table
