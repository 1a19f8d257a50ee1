"""The Python standard library's source: a text that is always on the machine."""

from __future__ import annotations

import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
from annotated_types import Ge, Gt

from rayloom.components import component
from rayloom.contract import TensorSpec
from rayloom.datasets.dataset import Dataset
from rayloom.datasets.digests import combined_digest
from rayloom.datasets.splits import SPLITS
from rayloom.datasets.text import WindowTable
from rayloom.errors import UserError

_OTHER = "(other)"
_LEFT_OUT = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "pydoc_data"})
"""Folders that hold no library code: tests, what was installed later, generated tables."""


@dataclass(frozen=True, kw_only=True)
class PythonSourceConfig:
    """The source of the running interpreter's standard library, for a language model of characters."""

    length: Annotated[int, Gt(0)] = 128
    """Characters in a window."""
    stride: Annotated[int, Gt(0)] | None = None
    """Characters from the start of one window to the next; null: as many as a window has."""
    characters: Annotated[int, Gt(0)] | None = None
    """Characters of the whole text that are read; null: all, some ten million."""
    validation: Annotated[float, Ge(0)] = 0.1
    """Share of the text that is held out for development: it follows the training text."""
    test: Annotated[float, Ge(0)] = 0.1
    """Share of the text that is held out for the last word: its end."""


def standard_library_files() -> list[Path]:
    """Return the modules of the standard library, without tests, in the order of their names."""
    root = Path(sysconfig.get_path("stdlib"))
    return sorted(path for path in root.rglob("*.py") if not _LEFT_OUT & set(path.relative_to(root).parts))


def standard_library_text(characters: int | None = None) -> str:
    """Return the modules one after the other, in an order that is the same for every seed, or their beginning.

    What cannot be read as UTF-8 is left out.
    """
    paths = standard_library_files()
    if not paths:
        raise UserError(f"the Python of {sys.prefix} has no source of its standard library; choose another data set")
    texts, read = [], 0
    for number in np.random.RandomState(0).permutation(len(paths)):
        if characters is not None and read >= characters:
            break
        texts.append(paths[number].read_bytes().decode("utf-8", errors="ignore").replace("\r\n", "\n"))
        read += len(texts[-1])
    return "".join(texts)[:characters]


@component("data set", PythonSourceConfig)
def load_python_source(config: PythonSourceConfig, seed: int) -> Dataset:
    """Return windows `token` [L] and `next_token` [L] of each split; 0 stands for every character outside ASCII.

    The text differs between versions of Python: the digest tells them apart.
    """
    text = standard_library_text(config.characters)
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    known = np.unique(codes[codes < 128])
    places = np.searchsorted(known, codes).clip(max=len(known) - 1)
    numbers: npt.NDArray[np.uint8] = np.where(known[places] == codes, places + 1, 0).astype(np.uint8)
    held_out = [round(share * len(numbers)) for share in (config.validation, config.test)]
    cuts = [len(numbers) - sum(held_out), len(numbers) - held_out[1]]
    if cuts[0] <= 0:
        raise UserError("source.dataset.validation: leave some of the text to learn from; hold out less")
    stride = config.stride or config.length
    tables = dict(
        zip(SPLITS, (WindowTable(part, config.length, stride) for part in np.split(numbers, cuts)), strict=True)
    )
    for name, table in tables.items():
        if not len(table):
            raise UserError(f"source.dataset.length: the {name} split is shorter than a window; shorten the window")
    names = (_OTHER, *(chr(code) for code in known))
    described = TensorSpec(shape=(config.length,), dtype=torch.int64, num_values=len(names), labels=names)
    digest = combined_digest(text, config.length, stride, config.validation, config.test)
    spec = {"token": described, "next_token": described}
    return Dataset(tables["train"], tables["validation"], tables["test"], spec, "python-source", digest)
