"""Pieces of the Python standard library's source, and the package that each is from: texts that are always there."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from rayloom.contract import TensorSpec, component
from rayloom.datasets import Dataset
from rayloom.datasets.python_source import standard_library_files
from rayloom_supervised.data.ragged import SizeConfig, ragged_dataset

PACKAGES = (
    "asyncio", "ctypes", "email", "http", "idlelib", "importlib", "logging", "multiprocessing", "tkinter", "unittest",
    "xml",
)  # fmt: skip
_WORD = re.compile(r"\w+|[^\w\s]")
_SPECIAL = ("(padding)", "(unknown)")


@dataclass(frozen=True, kw_only=True)
class PythonPackagesConfig:
    """Pieces of Python source by the package of the standard library that they are from, cut into words and signs."""

    shortest: Annotated[int, Ge(1)] = 10
    """Fewest words of a piece."""
    longest: Annotated[int, Ge(1)] = 40
    """Most words of a piece."""
    vocabulary: Annotated[int, Gt(0)] = 5000
    """Words that have a number of their own: the most frequent ones of the training split."""
    words: Annotated[int, Gt(0)] | None = None
    """Words of each package that are read; null: all."""
    held_out: Annotated[float, Gt(0), Lt(0.5)] = 0.1
    """Share of each package's text, at its end, that is held out for the test; as much before it for development."""

    def __post_init__(self) -> None:
        """Refuse lengths in the wrong order."""
        if self.shortest > self.longest:
            raise ValueError("longest: make it at least shortest")


@component("data set", PythonPackagesConfig)
def python_packages(config: PythonPackagesConfig, seed: int) -> Dataset:
    """Return `token` int64 [L], ragged, and `label`, of the packages that are here; each word is in one piece only."""
    chance = np.random.RandomState(0)
    pieces: list[list[tuple[list[str], int]]] = [[], [], []]
    texts = _words_by_package(config.words)
    names = tuple(texts)
    for label, words in enumerate(texts.values()):
        held = round(config.held_out * len(words))
        parts = words[: -2 * held], words[-2 * held : -held], words[-held:]
        for split, part in zip(pieces, parts, strict=True):
            begin = 0
            while begin + config.shortest <= len(part):
                length = chance.randint(config.shortest, config.longest + 1)
                split.append((part[begin : begin + length], label))
                begin += length
    counts = Counter(word for words, _ in pieces[0] for word in words)
    ordered = sorted(counts, key=lambda word: (-counts[word], word))[: config.vocabulary]
    numbers = {word: number for number, word in enumerate(ordered, start=len(_SPECIAL))}
    flat = [piece for split in pieces for piece in split]
    tokens: list[Tensor] = [torch.tensor([numbers.get(word, 1) for word in words]) for words, _ in flat]
    labels = torch.tensor([label for _, label in flat])
    described = TensorSpec(shape=(), dtype=torch.int64, num_values=len(names), labels=names)
    sizes = SizeConfig(train_size=len(pieces[0]), validation_size=len(pieces[1]), test_size=len(pieces[2]))
    symbols = {"token": (*_SPECIAL, *ordered)}
    return ragged_dataset("python-packages", sizes, {"token": tokens}, symbols, {"label": (labels, described)})


def _words_by_package(most: int | None) -> dict[str, list[str]]:
    """Return the words of each package, its modules in the order of their names, or the first `most` of them.

    The package's own name is left out: whoever reads it would know. So are packages that this Python comes without, as
    Debian's does without tkinter and idlelib.
    """
    words: dict[str, list[str]] = {name: [] for name in PACKAGES}
    for path in standard_library_files():
        for package in PACKAGES:
            if package in path.parts[:-1] and (most is None or len(words[package]) < most):
                text = path.read_bytes().decode("utf-8", errors="ignore").lower()
                words[package] += [word for word in _WORD.findall(text) if package not in word]
                break
    return {name: found[:most] for name, found in words.items() if found}
