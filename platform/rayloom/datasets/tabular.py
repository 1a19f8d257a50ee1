"""Tables of numbers and words in CSV and Parquet files: features, categories and a target.

file --chunks--> profile (types, classes) --> splits --> vocabulary of `train` --> arrays in memory or on the disk
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from annotated_types import Ge

from rayloom.components import component
from rayloom.config.import_path import suggest
from rayloom.contract import TensorSpec
from rayloom.datasets.dataset import Dataset
from rayloom.datasets.digests import combined_digest, files_digest
from rayloom.datasets.files import cache_folder
from rayloom.datasets.splits import SPLITS, Rows, SplitConfig, complete_splits, split_tables
from rayloom.datasets.table_files import Chunk, CsvFile, ParquetFile, Profile, TableFile, profile
from rayloom.datasets.tables import ArrayTable, RowTable, TensorTable
from rayloom.datasets.unlabelled import UnlabelledRows
from rayloom.errors import UserError

_MISSING = "(missing)"
_OTHER = "(other)"


@dataclass(frozen=True, kw_only=True)
class TableConfig(SplitConfig):
    """What the columns of a table are for."""

    path: str
    """The file."""
    target: str
    """Column to predict."""
    target_kind: Literal["class", "number"] = "class"
    """class gives the field `label` int64 [], number the field `target` float32 []."""
    numeric: tuple[str, ...] | None = None
    """Columns of the field `features` float32 [D], in this order; null: all that hold numbers alone."""
    categorical: tuple[str, ...] | None = None
    """Columns of the field `categories` int64 [K], in this order; null: all others."""
    ignore: tuple[str, ...] = ()
    """Columns that are left out."""
    missing: Literal["refuse", "fill"] = "refuse"
    """fill puts the column's mean over the training rows for a missing number, and a category of its own for a word."""
    unknown: Literal["refuse", "other"] = "refuse"
    """What becomes of a category that no training row has; other gives all of them one number, the column's last."""
    split_column: str | None = None
    """Column that says train, validation or test of each row; null: rows are held out by their shares."""
    memory_mib: Annotated[float, Ge(0)] = 1024.0
    """A table of more than this is kept in the cache as memory maps (unit: MiB)."""


@dataclass(frozen=True, kw_only=True)
class CsvConfig(TableConfig):
    """Your CSV file with a header: numeric and categorical columns and a target."""

    separator: str = ","
    """Character between two values."""


@dataclass(frozen=True, kw_only=True)
class ParquetConfig(TableConfig):
    """Your Parquet file: numeric and categorical columns and a target."""


@component("data set", CsvConfig)
def load_csv(config: CsvConfig, seed: int) -> Dataset:
    """Return a CSV file as features, categories and label or target; see `TableConfig`."""
    return _load(CsvFile(Path(config.path), config.separator), config)


@component("data set", ParquetConfig)
def load_parquet(config: ParquetConfig, seed: int) -> Dataset:
    """Return a Parquet file as features, categories and label or target; see `TableConfig`."""
    return _load(ParquetFile(Path(config.path)), config)


def _load(file: TableFile, config: TableConfig) -> Dataset:
    _check_names(file, config)
    used = [name for name in file.columns if name not in config.ignore]
    found = profile(file, used, config)
    columns = _Columns.choose(found, used, config)
    if config.target_kind == "number" and found.kinds[config.target] != "number":
        raise UserError(
            f"source.dataset.target: the column {config.target!r} of {file.path} does not hold numbers alone; set "
            f"target_kind to class"
        )
    rows = _rows(file, found, config)
    training = np.zeros(found.count, dtype=np.bool_)
    training[rows["train"]] = True
    encoder = _Encoder(file, config, columns, training)
    digest = combined_digest(files_digest([(file.path.name, file.path)]), replace(config, path="", memory_mib=0))
    arrays = encoder.arrays(found.count, digest)
    table = _as_table(arrays, config)
    tables = split_tables(table, rows)
    spec = encoder.spec()
    splits = (tables["train"], tables["validation"], tables["test"])
    return Dataset(*splits, spec, file.path.stem, digest, reader=encoder.read_unlabelled)


def _check_names(file: TableFile, config: TableConfig) -> None:
    named = {
        "target": (config.target,),
        "numeric": config.numeric or (),
        "categorical": config.categorical or (),
        "ignore": config.ignore,
        "split_column": (config.split_column,) if config.split_column else (),
    }
    for key, names in named.items():
        for name in names:
            if name not in file.columns:
                raise UserError(
                    f"source.dataset.{key}: {file.path} has no column {name!r}{suggest(name, file.columns)}"
                )


@dataclass(frozen=True)
class _Columns:
    """Which columns become which field."""

    numeric: tuple[str, ...]
    categorical: tuple[str, ...]

    @staticmethod
    def choose(found: Profile, used: Sequence[str], config: TableConfig) -> _Columns:
        inputs = [name for name in used if name not in (config.target, config.split_column)]
        numeric, categorical = config.numeric, config.categorical
        if numeric is None:
            free = [name for name in inputs if name not in (categorical or ())]
            numeric = tuple(name for name in free if found.kinds[name] == "number")
        if categorical is None:
            categorical = tuple(name for name in inputs if name not in numeric)
            for name in categorical:
                found.refuse_mixed(name)
        if not numeric and not categorical:
            raise UserError(f"source.dataset: {found.path} has no column besides the target; name another file")
        return _Columns(numeric, categorical)


def _rows(file: TableFile, found: Profile, config: TableConfig) -> dict[str, Rows]:
    classes = found.codes[config.target] if config.target_kind == "class" else None
    if config.split_column is None:
        return complete_splits({"train": np.arange(found.count)}, config, classes)
    codes, names = found.codes[config.split_column], found.values[config.split_column]
    unknown = sorted(set(names) - set(SPLITS))
    if unknown:
        raise UserError(
            f"source.dataset.split_column: the column {config.split_column!r} of {file.path} has the value "
            f"{unknown[0]!r}; write train, validation or test"
        )
    given = {name: np.flatnonzero(codes == number) for number, name in enumerate(names)}
    if "train" not in given:
        raise UserError(f"source.dataset.split_column: {file.path} has no row for train")
    return complete_splits(given, config, classes)


class _Encoder:
    """Turns chunks of a file into numbers, by what the training rows hold."""

    def __init__(self, file: TableFile, config: TableConfig, columns: _Columns, training: npt.NDArray[np.bool_]):
        self._file, self._config, self._columns, self._training = file, config, columns, training
        self._names = (*columns.categorical, *((config.target,) if config.target_kind == "class" else ()))
        self._vocabulary: dict[str, list[str]] = {}
        self._means: dict[str, float] = {}
        self._learn()

    def _learn(self) -> None:
        """Collect the categories of the training rows, and the means where something is to be filled."""
        seen: dict[str, set[str]] = {name: set() for name in self._names}
        sums = dict.fromkeys(self._columns.numeric, (0.0, 0))
        start = 0
        for chunk in self._file.chunks():
            training = self._training[start : start + len(chunk)]
            for name in self._names:
                seen[name].update(self._words(chunk, name, start)[training].tolist())
            for name in self._columns.numeric if self._config.missing == "fill" else ():
                values = chunk.numbers(name)[training]
                known = values[~np.isnan(values)]
                total, count = sums[name]
                sums[name] = (total + float(known.sum()), count + len(known))
            start += len(chunk)
        self._vocabulary = {name: _sorted(words) for name, words in seen.items()}
        self._means = {name: total / count if count else 0.0 for name, (total, count) in sums.items()}

    def _words(self, chunk: Chunk, name: str, start: int) -> npt.NDArray[Any]:
        words, missing = chunk.words(name)
        if missing.any() and (self._config.missing == "refuse" or name == self._config.target):
            raise self._missing(name, start + int(np.flatnonzero(missing)[0]))
        return np.where(missing, _MISSING, words)

    def _missing(self, name: str, row: int) -> UserError:
        remedy = "remove the row" if name == self._config.target else "fill it, or set source.dataset.missing to fill"
        return UserError(f"{self._file.path} has no value in row {row + 1} of the column {name!r}: {remedy}")

    def arrays(self, count: int, digest: str) -> dict[str, npt.NDArray[Any]]:
        """Return all rows as arrays, memory maps where they are large; those of an earlier run serve again."""
        shapes: dict[str, tuple[tuple[int, ...], type[Any]]] = {}
        if self._columns.numeric:
            shapes["features"] = ((count, len(self._columns.numeric)), np.float32)
        if self._columns.categorical:
            shapes["categories"] = ((count, len(self._columns.categorical)), np.int64)
        target = "label" if self._config.target_kind == "class" else "target"
        shapes[target] = ((count,), np.int64 if target == "label" else np.float32)
        size = sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in shapes.values())
        if size <= self._config.memory_mib * 2**20:
            arrays = {name: np.zeros(shape, dtype) for name, (shape, dtype) in shapes.items()}
            self._fill(arrays)
            return arrays
        return self._mapped(shapes, cache_folder("tables") / digest[:16])

    def _mapped(
        self, shapes: Mapping[str, tuple[tuple[int, ...], type[Any]]], folder: Path
    ) -> dict[str, npt.NDArray[Any]]:
        if not folder.is_dir():
            aside = folder.with_name(f"{folder.name}.{os.getpid()}.new")
            aside.mkdir(parents=True, exist_ok=True)
            arrays: dict[str, npt.NDArray[Any]] = {
                name: np.lib.format.open_memmap(aside / f"{name}.npy", "w+", dtype, shape)
                for name, (shape, dtype) in shapes.items()
            }
            self._fill(arrays)
            del arrays
            try:
                aside.rename(folder)
            except OSError:  # another learner was first; its files are the same
                if not folder.is_dir():
                    raise
        return {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in shapes}

    def _fill(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        start = 0
        for chunk in self._file.chunks():
            rows = slice(start, start + len(chunk))
            self._fill_inputs({name: array[rows] for name, array in arrays.items()}, chunk, start)
            if "label" in arrays:
                arrays["label"][rows] = self._codes(chunk, self._config.target, start)
            else:
                arrays["target"][rows] = self._numbers(chunk, self._config.target, start)
            start += len(chunk)

    def _fill_inputs(self, arrays: Mapping[str, npt.NDArray[Any]], chunk: Chunk, start: int) -> None:
        for column, name in enumerate(self._columns.numeric):
            arrays["features"][:, column] = self._numbers(chunk, name, start)
        for column, name in enumerate(self._columns.categorical):
            arrays["categories"][:, column] = self._codes(chunk, name, start)

    def read_unlabelled(self, paths: Sequence[Path]) -> Iterator[UnlabelledRows]:
        """Read files with the same columns, of which the target may be missing."""
        for path in paths:
            other = copy.copy(self)
            other._file = self._file.another(path)
            for name in (*self._columns.numeric, *self._columns.categorical):
                if name not in other._file.columns:
                    raise UserError(f"predict: {path} has no column {name!r}{suggest(name, other._file.columns)}")
            yield from other._unlabelled_rows()

    def _unlabelled_rows(self) -> Iterator[UnlabelledRows]:
        start, path = 0, str(self._file.path)
        for chunk in self._file.chunks():
            shapes = {
                "features": (self._columns.numeric, np.float32),
                "categories": (self._columns.categorical, np.int64),
            }
            arrays = {name: np.zeros((len(chunk), len(of)), dtype) for name, (of, dtype) in shapes.items() if of}
            self._fill_inputs(arrays, chunk, start)
            fields = {name: torch.from_numpy(array) for name, array in arrays.items()}
            places = tuple(range(start + 1, start + len(chunk) + 1))
            yield UnlabelledRows((path,) * len(chunk), places, fields)
            start += len(chunk)

    def _numbers(self, chunk: Chunk, name: str, start: int) -> npt.NDArray[np.float64]:
        values = chunk.numbers(name)
        missing = np.isnan(values)
        if missing.any():
            row = int(np.flatnonzero(missing)[0])
            text = chunk.text(name, row)
            if text is not None:
                raise UserError(
                    f"{self._file.path} has {text!r} in row {start + row + 1} of the column {name!r}, which is no "
                    f"number: correct it, or name the column in source.dataset.categorical"
                )
            if self._config.missing == "refuse" or name == self._config.target:
                raise self._missing(name, start + row)
            values = np.where(missing, self._means[name], values)
        if not np.isfinite(values).all():
            row = start + int(np.flatnonzero(~np.isfinite(values))[0])
            raise UserError(f"{self._file.path} is not finite in row {row + 1} of the column {name!r}: correct it")
        return values

    def _codes(self, chunk: Chunk, name: str, start: int) -> Rows:
        vocabulary = self._vocabulary[name]
        numbers = {word: number for number, word in enumerate(vocabulary)}
        words = self._words(chunk, name, start)
        codes = np.fromiter((numbers.get(word, -1) for word in words.tolist()), np.int64, len(words))
        unknown = np.flatnonzero(codes < 0)
        if len(unknown) and (self._config.unknown == "refuse" or name == self._config.target):
            remedy = "set source.dataset.unknown to other" if name != self._config.target else "give train such rows"
            raise UserError(
                f"{self._file.path} has {words[unknown[0]]!r} in row {start + int(unknown[0]) + 1} of the column "
                f"{name!r}, which no training row has: correct it, or {remedy}"
            )
        codes[unknown] = len(vocabulary)
        return codes

    def spec(self) -> dict[str, TensorSpec]:
        """Describe a row."""
        spec = {}
        if self._columns.numeric:
            spec["features"] = TensorSpec(shape=(len(self._columns.numeric),), dtype=torch.float32)
        if self._columns.categorical:
            more = self._config.unknown == "other"
            sizes = tuple(len(self._vocabulary[name]) + more for name in self._columns.categorical)
            spec["categories"] = TensorSpec(shape=(len(sizes),), dtype=torch.int64, num_values=sizes)
        if self._config.target_kind == "class":
            classes = tuple(self._vocabulary[self._config.target])
            spec["label"] = TensorSpec(shape=(), dtype=torch.int64, num_values=len(classes), labels=classes)
        else:
            spec["target"] = TensorSpec(shape=(), dtype=torch.float32)
        return spec


def _sorted(words: set[str]) -> list[str]:
    """Return words in their order, numbers by their size."""
    try:
        return sorted(words, key=lambda word: (float(word), word))
    except ValueError:
        return sorted(words)


def _as_table(arrays: Mapping[str, npt.NDArray[Any]], config: TableConfig) -> RowTable:
    if any(isinstance(array, np.memmap) for array in arrays.values()):
        return ArrayTable(arrays)
    return TensorTable({name: torch.from_numpy(array) for name, array in arrays.items()})
