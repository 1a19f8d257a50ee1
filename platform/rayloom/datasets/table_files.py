"""CSV and Parquet files in chunks, and what their columns hold."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from rayloom.errors import UserError

_CHUNK = 65_536
_KEPT = 64 * 2**20  # a file of at most this size is parsed once


class Chunk:
    """Some rows of a file."""

    def __init__(self, frame: Any) -> None:
        self._frame = frame

    def __len__(self) -> int:
        return len(self._frame)

    def numbers(self, name: str) -> npt.NDArray[np.float64]:
        """Return a column as numbers; NaN where there is no number."""
        import pandas

        values = pandas.to_numeric(self._frame[name], errors="coerce")
        numbers: npt.NDArray[np.float64] = values.to_numpy(dtype=np.float64, na_value=np.nan)
        return numbers

    def words(self, name: str) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """Return a column as words, and where values are missing."""
        column = self._frame[name]
        missing = column.isna().to_numpy()
        return np.array([str(value) for value in column.tolist()], dtype=object), missing

    def text(self, name: str, row: int) -> str | None:
        """Return what stands in a row; None where nothing does."""
        words, missing = Chunk(self._frame.iloc[row : row + 1]).words(name)
        return None if missing[0] else str(words[0])


class TableFile(ABC):
    """A file with named columns."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            from rayloom.config.import_path import suggest

            beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
            raise UserError(f"source.dataset.path: there is no file {path}{suggest(path.name, beside)}")
        self.path = path
        self._kept: list[Chunk] | None = None
        try:
            self.columns = self._read_columns()
        except (OSError, ValueError) as error:
            raise self._damaged(error) from None

    def chunks(self) -> Iterator[Chunk]:
        """Yield all rows in order; a small file is parsed once."""
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[Chunk] | None = [] if self.path.stat().st_size <= _KEPT else None
        try:
            for frame in self._frames():
                chunk = Chunk(frame)
                if kept is not None:
                    kept.append(chunk)
                yield chunk
        except (OSError, ValueError) as error:
            raise self._damaged(error) from None
        self._kept = kept

    def another(self, path: Path) -> TableFile:
        """Return another file of the same kind; UserError where there is none."""
        return type(self)(path)

    def _damaged(self, error: Exception) -> UserError:
        return UserError(f"{self.path} cannot be read: {' '.join(str(error).split())[:200]}")

    @abstractmethod
    def _read_columns(self) -> tuple[str, ...]: ...

    @abstractmethod
    def _frames(self) -> Iterator[Any]: ...


class CsvFile(TableFile):
    """Values as they are written: a word stays a word until somebody asks for numbers."""

    def __init__(self, path: Path, separator: str) -> None:
        self._separator = separator
        super().__init__(path)

    def another(self, path: Path) -> TableFile:
        """Return another file with the same separator."""
        return CsvFile(path, self._separator)

    def _read_columns(self) -> tuple[str, ...]:
        import pandas

        return tuple(pandas.read_csv(self.path, sep=self._separator, nrows=0).columns)

    def _frames(self) -> Iterator[Any]:
        import pandas

        yield from pandas.read_csv(self.path, sep=self._separator, dtype=str, chunksize=_CHUNK)


class ParquetFile(TableFile):
    """Row groups, one after the other."""

    def _read_columns(self) -> tuple[str, ...]:
        import pyarrow.parquet

        return tuple(pyarrow.parquet.read_schema(self.path).names)

    def _frames(self) -> Iterator[Any]:
        import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(self.path) as file:
            for batch in file.iter_batches(batch_size=_CHUNK):
                yield batch.to_pandas()


@dataclass
class Profile:
    """What the columns of a file hold."""

    path: Path
    count: int = 0
    """Rows."""
    kinds: dict[str, Literal["number", "word"]] = field(default_factory=dict)
    """number: every value that is there is one."""
    codes: dict[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    """The values of the target and of the split column, as places in `values` (missing: a place of their own)."""
    values: dict[str, list[str]] = field(default_factory=dict)
    """The values of those columns, in the order in which they first occur."""
    numbers: dict[str, int] = field(default_factory=dict)
    """How many values of a column are numbers."""
    first_word: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Row and text of a column's first value that is no number."""

    def refuse_mixed(self, name: str) -> None:
        """Raise UserError for a column of numbers in which a few words stand: they are typing errors."""
        if name in self.first_word and 2 * self.numbers[name] > self.count:
            row, text = self.first_word[name]
            raise UserError(
                f"{self.path} has {text!r} in row {row + 1} of the column {name!r} among numbers: correct it, or name "
                f"the column in source.dataset.categorical"
            )


def profile(file: TableFile, used: Sequence[str], config: Any) -> Profile:
    """Return what the columns `used` of a file hold; reads all of it."""
    found = Profile(file.path, numbers=dict.fromkeys(used, 0))
    coded = [name for name in (config.target, config.split_column) if name]
    places: dict[str, dict[str, int]] = {name: {} for name in coded}
    codes: dict[str, list[npt.NDArray[np.int64]]] = {name: [] for name in coded}
    for chunk in file.chunks():
        for name in used:
            _classify(found, chunk, name)
        for name in coded:
            words, missing = chunk.words(name)
            known = places[name]
            texts = np.where(missing, "", words).tolist()
            codes[name].append(np.array([known.setdefault(text, len(known)) for text in texts], dtype=np.int64))
        found.count += len(chunk)
    if not found.count:
        raise UserError(f"{file.path} has no rows: name a file that has some")
    found.kinds = {name: "word" if name in found.first_word else "number" for name in used}
    found.codes = {name: np.concatenate(parts) for name, parts in codes.items()}
    found.values = {name: list(known) for name, known in places.items()}
    return found


def _classify(found: Profile, chunk: Chunk, name: str) -> None:
    numbers = ~np.isnan(chunk.numbers(name))
    found.numbers[name] += int(numbers.sum())
    if name not in found.first_word and not numbers.all():
        words, missing = chunk.words(name)
        bad = np.flatnonzero(~numbers & ~missing)
        if len(bad):
            found.first_word[name] = (found.count + int(bad[0]), str(words[bad[0]]))
