"""The Python standard library's source: a text that is always on the machine."""

from __future__ import annotations

import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rayloom.components import component
from rayloom.datasets.dataset import Dataset
from rayloom.datasets.windows import WindowsConfig, ascii_windows
from rayloom.errors import UserError

_LEFT_OUT = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "pydoc_data"})
"""Folders that hold no library code: tests, what was installed later, generated tables."""


@dataclass(frozen=True, kw_only=True)
class PythonSourceConfig(WindowsConfig):
    """The source of the running interpreter's standard library, for a language model of characters: ten million."""


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
    return ascii_windows("python-source", standard_library_text(config.characters), config)
