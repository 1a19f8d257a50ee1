"""Chinese quatrains from the npm package chinese-poetry (MIT), or from one's own folder."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Gt
from torch import Tensor

from rayloom.contract import TensorSpec, UserError, component
from rayloom.datasets import Dataset, TensorTable
from rayloom.datasets.digests import combined_digest
from rayloom.datasets.files import search_folders
from rayloom.datasets.splits import SPLITS, SplitConfig, complete_splits

BEGIN = "\n"
"""What stands before a poem."""
COMMA, STOP = "\uff0c", "\u3002"
"""Ends of a line, in turn."""
LINES = 4
_OTHER = "(other)"
_ENDS = re.compile(r"[\uff0c\u3002\uff01\uff1f\uff1b\u3001,.!?;\s]+")


@dataclass(frozen=True, kw_only=True)
class PoemsConfig(SplitConfig):
    """Quatrains, four lines of five or seven characters: 10,584 of seven in the Tang poems of chinese-poetry."""

    path: str | None = None
    """The unpacked npm package chinese-poetry, or any folder with JSON files (a list of poems, each with its
    `paragraphs`) or .txt files (poems with an empty line between them); null: in RAYLOOM_DATA or in the cache."""
    pattern: str = "quantangshi/poet.tang.*.json"
    """Files that are read, below the folder: *.json, *.txt."""
    line: Literal[5, 7] = 7
    """Characters in a line; other poems are left out."""
    vocabulary: Annotated[int, Gt(0)] = 4000
    """Characters that have a number of their own: the most frequent ones of the training split."""


@component("data set", PoemsConfig)
def poems(config: PoemsConfig, seed: int) -> Dataset:
    """Return `token` and `next_token` int64 [4 (line + 1)]: a poem with its commas and stops, one place later.

    The first token is BEGIN; 0 stands for characters without a number. Each poem is there once.
    """
    found = sorted(set(_quatrains(config)))
    rows = complete_splits({"train": np.arange(len(found))}, config)
    counts = Counter(character for row in rows["train"] for character in found[row])
    ordered = sorted(counts, key=lambda character: (-counts[character], character))[: config.vocabulary]
    names = (_OTHER, BEGIN, *ordered)
    numbers = {name: number for number, name in enumerate(names)}
    whole = torch.tensor([[numbers.get(character, 0) for character in BEGIN + poem] for poem in found])
    tables = {name: _table(whole[torch.from_numpy(chosen)]) for name, chosen in rows.items()}
    described = TensorSpec(shape=(whole.shape[1] - 1,), dtype=torch.int64, num_values=len(names), labels=names)
    digest = combined_digest(*found, config.vocabulary, config.validation, config.test, config.split_seed)
    train, validation, test = (tables[name] for name in SPLITS)
    return Dataset(train, validation, test, {"token": described, "next_token": described}, "poems", digest)


def split_lines(poem: str) -> list[str]:
    """Return the lines of a poem, without the signs and blanks between them."""
    return [line for line in _ENDS.split(poem) if line]


def is_quatrain(poem: str, line: int) -> bool:
    """Return whether a poem has four lines of `line` characters, with a comma after the odd and a stop after the even
    ones."""
    signs = [poem[place] for place in range(line, len(poem), line + 1)]
    return len(poem) == LINES * (line + 1) and signs == [COMMA, STOP] * 2 and _even(split_lines(poem), line)


def _even(lines: Sequence[str], line: int) -> bool:
    return len(lines) == LINES and all(len(found) == line for found in lines)


def _table(tokens: Tensor) -> TensorTable:
    return TensorTable({"token": tokens[:, :-1].contiguous(), "next_token": tokens[:, 1:].contiguous()})


def _quatrains(config: PoemsConfig) -> Iterator[str]:
    """Yield every quatrain of the files; UserError where there are too few to split."""
    folder, count = _folder(config), 0
    paths = sorted(folder.rglob(config.pattern))
    if not paths:
        raise UserError(
            f"source.dataset.pattern: {folder} has no files {config.pattern}; set it to *.json or *.txt, or path to "
            "the unpacked npm package chinese-poetry"
        )
    for path in paths:
        for poem in _read(path):
            lines = split_lines(poem)
            if _even(lines, config.line):
                count += 1
                yield "".join(text + end for text, end in zip(lines, (COMMA, STOP) * 2, strict=True))
    if count < len(SPLITS):
        raise UserError(f"source.dataset.line: {folder} has {count} poems of four lines of {config.line} characters")


def _folder(config: PoemsConfig) -> Path:
    places = [Path(config.path)] if config.path else search_folders("chinese-poetry", None)
    folder = next((place for place in places if place.is_dir()), None)
    if folder is None:
        raise UserError(
            f"source.dataset.path: the poems are not in {places[-1]}; unpack the npm package chinese-poetry there (npm "
            "pack chinese-poetry), or set path to a folder with poems as .json or .txt files"
        )
    return folder


def _read(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix != ".json":
            return re.split(r"\n\s*\n", text)
        found: list[Any] = json.loads(text)
        return ["".join(poem["paragraphs"]) for poem in found]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} has no poems that can be read ({type(error).__name__}): write a JSON list of poems, each with its "
            "paragraphs, or UTF-8 text"
        ) from None
