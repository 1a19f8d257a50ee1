"""One long text as windows of characters, for language models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
from annotated_types import Ge, Gt

from rayloom.contract import TensorSpec
from rayloom.datasets.dataset import Dataset
from rayloom.datasets.digests import combined_digest
from rayloom.datasets.splits import SPLITS
from rayloom.datasets.text import WindowTable
from rayloom.errors import UserError

OTHER = "(other)"
"""Name of the number 0, which stands for every character without one of its own."""


@dataclass(frozen=True, kw_only=True)
class WindowsConfig:
    """How a text is cut, and what of it is held out."""

    length: Annotated[int, Gt(0)] = 128
    """Characters in a window."""
    stride: Annotated[int, Gt(0)] | None = None
    """Characters from the start of one window to the next; null: as many as a window has."""
    characters: Annotated[int, Gt(0)] | None = None
    """Characters of the whole text that are read; null: all."""
    validation: Annotated[float, Ge(0)] = 0.1
    """Share of the text that is held out for development: it follows the training text."""
    test: Annotated[float, Ge(0)] = 0.1
    """Share of the text that is held out for the last word: its end."""


def ascii_windows(name: str, text: str, config: WindowsConfig) -> Dataset:
    """Return windows `token` [L] and `next_token` [L] of each split; 0 stands for every character outside ASCII.

    UserError where a split is shorter than a window.
    """
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    known = np.unique(codes[codes < 128])
    if not len(known):
        raise UserError(f"source.dataset: {name} has no text; choose another data set")
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
    for split, table in tables.items():
        if not len(table):
            raise UserError(f"source.dataset.length: the {split} split is shorter than a window; shorten the window")
    names = (OTHER, *(chr(code) for code in known))
    described = TensorSpec(shape=(config.length,), dtype=torch.int64, num_values=len(names), labels=names)
    digest = combined_digest(text, config.length, stride, config.validation, config.test)
    spec = {"token": described, "next_token": described}
    return Dataset(tables["train"], tables["validation"], tables["test"], spec, name, digest)
