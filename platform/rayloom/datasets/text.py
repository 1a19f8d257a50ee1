"""Text: labelled lines or files as sequences of tokens, and documents as windows for language models."""

from __future__ import annotations

import codecs
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from annotated_types import Ge, Gt
from torch import Tensor

from rayloom.components import component
from rayloom.contract import Batch, Spec, TensorSpec
from rayloom.datasets.dataset import Dataset
from rayloom.datasets.digests import combined_digest, files_digest
from rayloom.datasets.folders import find_classes, split_folders
from rayloom.datasets.splits import SPLITS, Rows, SplitConfig, complete_splits, split_tables
from rayloom.datasets.tables import RaggedTable, RowTable
from rayloom.datasets.unlabelled import UnlabelledRows, within
from rayloom.errors import UserError

PADDING, UNKNOWN = 0, 1
"""Numbers of the two tokens that no text holds; words and characters follow."""
_SPECIAL = ("(padding)", "(unknown)")
_SUFFIXES = frozenset({".txt"})
_TEXTS_AT_ONCE = 256
_HALVES = re.compile("[\ud800-\udfff]")
"""Halves of the pairs by which UTF-16 writes a character: alone they are none."""


@dataclass(frozen=True, kw_only=True)
class TextConfig(SplitConfig):
    """Your labelled texts: a folder of .txt files for each class, or a file of lines `label<TAB>text`."""

    path: str
    """Folder with one folder for each class (or train, validation and test above those), or a file of lines."""
    tokens: Literal["words", "characters", "bytes"] = "words"
    """What a text is cut into; words are what stands between blanks."""
    lower: bool = True
    """Read capital letters as small ones."""
    vocabulary: Annotated[int, Gt(0)] = 20_000
    """Most words or characters that have a number of their own: the most frequent ones of the training split."""
    max_length: Annotated[int, Gt(0)] = 512
    """Tokens that are kept of a text, from its start."""
    encoding: str | None = None
    """What the files are written in: gb18030, cp1252 and so on; null: UTF-8, or UTF-16 where a file begins with its
    mark."""


@dataclass(frozen=True, kw_only=True)
class DocumentsConfig:
    """Your documents for a language model: windows of characters or bytes and what follows each of them."""

    path: str
    """A text file, or a folder of .txt files (or of the folders train, validation and test that hold them)."""
    tokens: Literal["characters", "bytes"] = "characters"
    """What a text is cut into."""
    length: Annotated[int, Gt(0)] = 128
    """Tokens in a window."""
    stride: Annotated[int, Gt(0)] | None = None
    """Tokens from the start of one window to the next; null: as many as a window has."""
    validation: Annotated[float, Ge(0)] = 0.1
    """Share of the text that is held out for development: it follows the training text."""
    test: Annotated[float, Ge(0)] = 0.1
    """Share of the text that is held out for the last word: its end."""
    encoding: str | None = None
    """What the files are written in, for characters: gb18030, cp1252 and so on; null: UTF-8, or UTF-16 where a file
    begins with its mark."""


@component("data set", TextConfig)
def load_text(config: TextConfig, seed: int) -> Dataset:
    """Return `token` int64 [L] (padded with 0, true length in `token_length`) and `label` of every text.

    The vocabulary and the classes are those of the training split; other words become the token 1.
    """
    root = Path(config.path)
    read = _labelled_lines if root.is_file() else _labelled_files
    texts, labels, classes, given, files = read(root, config.encoding)
    rows = complete_splits(given, config, labels)
    missing = [name for number, name in enumerate(classes) if number not in labels[rows["train"]]]
    if missing:
        raise UserError(f"source.dataset.path: no training text of {root} has the label {missing[0]!r}: add some")
    tokens = [_tokens(text.lower() if config.lower else text, config.tokens)[: config.max_length] for text in texts]
    for number, found in enumerate(tokens):
        if not found:
            raise UserError(f"text {number + 1} of {root} is empty: remove it")
    names = _vocabulary((tokens[row] for row in rows["train"]), config)
    table = _ragged(tokens, names, labels, config.tokens)
    tables = split_tables(table, rows)
    digest = combined_digest(files_digest(files), config.tokens, config.lower, config.vocabulary, config.max_length,
                             config.encoding, config.validation, config.test, config.split_seed)  # fmt: skip
    spec = _text_spec(names, classes, max(map(len, tokens)))
    splits = (tables["train"], tables["validation"], tables["test"])
    return Dataset(*splits, spec, root.stem, digest, reader=_UnlabelledTexts(config, names, root.is_file()))


class _UnlabelledTexts:
    """Reads texts with the vocabulary of the training split: one in each line where the data were lines, else one in
    each file."""

    def __init__(self, config: TextConfig, names: Sequence[str], lines: bool) -> None:
        self._config, self._names, self._lines = config, names, lines

    def __call__(self, paths: Sequence[Path]) -> Iterator[UnlabelledRows]:
        for path in (file for given in paths for file in within(given, _SUFFIXES, "texts")):
            text = _read(path, self._config.encoding)
            texts = text.split("\n") if self._lines else [text]
            kept = [(place, text) for place, text in enumerate(texts, start=1) if text.strip()]
            if not kept:
                raise UserError(f"predict: the text {path} is empty")
            for start in range(0, len(kept), _TEXTS_AT_ONCE):
                part = kept[start : start + _TEXTS_AT_ONCE]
                places = tuple(place for place, _ in part)
                yield UnlabelledRows((str(path),) * len(part), places, self._tokens([text for _, text in part]))

    def _tokens(self, texts: Sequence[str]) -> Batch:
        config = self._config
        tokens = [_tokens(text.lower() if config.lower else text, config.tokens)[: config.max_length] for text in texts]
        table = _ragged(tokens, self._names, np.zeros(len(tokens), np.int64), config.tokens)
        rows = table.rows(torch.arange(len(tokens)))
        return {name: rows[name] for name in ("token", "token_length")}


_Labelled = tuple[list[str], Rows, tuple[str, ...], dict[str, Rows], list[tuple[str, Path]]]


def _labelled_lines(path: Path, encoding: str | None) -> _Labelled:
    texts, words = [], []
    for number, line in enumerate(_read(path, encoding).split("\n"), start=1):
        if not line.strip():
            continue
        label, tab, text = line.partition("\t")
        if not tab or not label:
            raise UserError(f"{path} has no label in line {number}: write label, a tab and the text")
        texts.append(text)
        words.append(label)
    if not texts:
        raise UserError(f"{path} has no lines: write label, a tab and the text in each")
    classes = tuple(sorted(set(words)))
    numbers = {name: number for number, name in enumerate(classes)}
    labels = np.array([numbers[word] for word in words], dtype=np.int64)
    return texts, labels, classes, {"train": np.arange(len(texts))}, [(path.name, path)]


def _labelled_files(root: Path, encoding: str | None) -> _Labelled:
    files = find_classes(root, _SUFFIXES, ".txt files")
    named = [(path.relative_to(root).as_posix(), path) for path in files.paths]
    return [_read(path, encoding) for path in files.paths], files.labels, files.classes, files.rows, named


def _read(path: Path, encoding: str | None) -> str:
    """Return a file's text, whose lines end with a line feed alone.

    UserError for another encoding than the one that is said, or detected, and for characters that no text has.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}): make it readable or remove it") from None
    named = encoding or ("utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig")
    try:
        text = content.decode(named)
    except (LookupError, ValueError) as error:
        if isinstance(error, UnicodeError):
            raise _unreadable(path, encoding, getattr(error, "start", 0)) from None
        known = "utf-8, gb18030 or cp1252"
        raise UserError(f"source.dataset.encoding: Python knows no encoding {encoding!r}; try {known}") from None
    if "\0" in text:
        place = text.index("\0") + 1
        raise UserError(
            f"{path} is no {encoding or 'UTF-8'} text: character {place} is NUL; if it is UTF-16 without a mark, set "
            "source.dataset.encoding to utf-16-le or utf-16-be, else remove it"
        )
    if encoding and (half := _HALVES.search(text)):  # utf-7 and the like let them through
        raise _unreadable(path, encoding, half.start())
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _unreadable(path: Path, encoding: str | None, start: int) -> UserError:
    advice = "say its right encoding" if encoding else "say its encoding (gb18030, cp1252 and so on)"
    return UserError(
        f"{path} cannot be read as {encoding or 'UTF-8'} text (byte {start + 1}): {advice} as "
        "source.dataset.encoding, convert or remove it"
    )


def _tokens(text: str, kind: str) -> Sequence[Any]:
    if kind == "words":
        return text.split()
    return text if kind == "characters" else text.encode()


def _vocabulary(texts: Iterable[Sequence[Any]], config: TextConfig) -> tuple[str, ...]:
    """Return the names of all tokens; words of equal frequency are in alphabetical order."""
    if config.tokens == "bytes":
        return (*_SPECIAL, *(str(byte) for byte in range(256)))
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    ordered = sorted(counts, key=lambda word: (-counts[word], word))
    return (*_SPECIAL, *ordered[: config.vocabulary])


def _ragged(tokens: Sequence[Sequence[Any]], names: Sequence[str], labels: Rows, kind: str) -> RaggedTable:
    offset = len(_SPECIAL)
    numbers: Any = {name: number for number, name in enumerate(names)}
    if kind == "bytes":
        numbers = {byte: byte + offset for byte in range(256)}
    values = [numbers.get(token, UNKNOWN) for text in tokens for token in text]
    offsets = torch.tensor([0, *map(len, tokens)]).cumsum(0)
    return RaggedTable({"token": (torch.tensor(values), offsets)}, {"label": torch.from_numpy(labels)})


def _text_spec(names: tuple[str, ...], classes: tuple[str, ...], longest: int) -> Spec:
    return {
        "token": TensorSpec(shape=(longest,), dtype=torch.int64, num_values=len(names), labels=names, ragged=True),
        "token_length": TensorSpec(shape=(), dtype=torch.int64),
        "label": TensorSpec(shape=(), dtype=torch.int64, num_values=len(classes), labels=classes),
    }


# --- documents -----------------------------------------------------------------------------------------------------


class WindowTable(RowTable):
    """Windows of one long sequence: `token` [L] and `next_token` [L], the same one place later (int64)."""

    def __init__(self, sequence: npt.NDArray[Any], length: int, stride: int) -> None:
        self._sequence, self._length, self._stride = sequence, length, stride

    def __len__(self) -> int:
        """Return the number of windows that are whole."""
        return max(0, (len(self._sequence) - 1 - self._length) // self._stride + 1)

    def rows(self, indices: Tensor) -> Batch:
        """Return the windows."""
        places = (indices * self._stride)[:, None] + torch.arange(self._length + 1)
        tokens = torch.from_numpy(self._sequence[places.numpy()].astype(np.int64))
        return {"token": tokens[:, :-1].contiguous(), "next_token": tokens[:, 1:].contiguous()}

    @property
    def in_memory(self) -> bool:
        """Whether the sequence is no memory map."""
        return not isinstance(self._sequence, np.memmap)

    @property
    def consecutive(self) -> bool:
        """Whether windows neither overlap nor leave anything out."""
        return self._stride == self._length


@component("data set", DocumentsConfig)
def load_documents(config: DocumentsConfig, seed: int) -> Dataset:
    """Return windows `token` [L] and `next_token` [L] of all documents of a split, one after the other.

    Characters are numbered from 1 in their order; 0 stands for those that the training split does not have. Bytes are
    their own numbers; a single file of them stays on the disk.
    """
    root = Path(config.path)
    parts, files = _document_parts(root, config)
    names: tuple[str, ...] = ()
    if config.tokens == "characters":
        known = np.unique(parts["train"])
        names = (_SPECIAL[UNKNOWN], *(chr(code) for code in known))
        parts = {name: _numbered(part, known) for name, part in parts.items()}
    spec_of = TensorSpec(shape=(config.length,), dtype=torch.int64, num_values=len(names) or 256, labels=names)
    stride = config.stride or config.length
    tables = {name: WindowTable(part, config.length, stride) for name, part in parts.items()}
    for name, part in parts.items():
        if not len(tables[name]):
            raise UserError(
                f"source.dataset.length: the {name} split of {root} has {len(part)} {config.tokens}, too few for a "
                f"window of {config.length} and the next: shorten the window or give this split more"
            )
    digest = combined_digest(files_digest(files), config.tokens, config.length, stride, config.validation, config.test,
                             config.encoding)  # fmt: skip
    spec = {"token": spec_of, "next_token": spec_of}
    return Dataset(tables["train"], tables["validation"], tables["test"], spec, root.stem, digest)


def _numbered(codes: npt.NDArray[Any], known: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if not len(known):
        return np.zeros(len(codes), np.int32)
    places = np.searchsorted(known, codes).clip(max=len(known) - 1)
    numbers: npt.NDArray[Any] = np.where(known[places] == codes, places + 1, 0).astype(np.int32)
    return numbers


def _document_parts(root: Path, config: DocumentsConfig) -> tuple[dict[str, npt.NDArray[Any]], list[tuple[str, Path]]]:
    """Return the sequence of each split and the files; what has no folder is cut from the end of the training text."""
    if not root.exists():
        raise UserError(f"source.dataset.path: there is no file or folder {root}")
    folders = {"train": root} if root.is_file() else split_folders(root)
    parts, files = {}, []
    for name, folder in folders.items():
        paths = [folder] if folder.is_file() else sorted(folder.rglob("*.txt"))
        if not paths:
            raise UserError(f"source.dataset.path: {folder} has no .txt files")
        parts[name] = _sequence(paths, config.tokens, config.encoding)
        files += [(path.relative_to(root).as_posix() if path != root else path.name, path) for path in paths]
    whole = parts["train"]
    end = len(whole)
    for name in reversed(SPLITS[1:]):
        if name not in parts:
            start = end - round(getattr(config, name) * len(whole))
            parts[name], end = whole[start:end], start
    return {**parts, "train": whole[:end]}, files


def _sequence(paths: Sequence[Path], kind: str, encoding: str | None) -> npt.NDArray[Any]:
    """Return the codes of all characters, or the bytes, of some files."""
    if kind == "bytes":
        if len(paths) == 1 and paths[0].stat().st_size:
            return np.memmap(paths[0], dtype=np.uint8, mode="r")
        return np.frombuffer(b"".join(path.read_bytes() for path in paths), dtype=np.uint8)
    text = "".join(_read(path, encoding) for path in paths)
    return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
