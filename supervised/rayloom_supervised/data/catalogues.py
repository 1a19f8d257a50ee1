"""Translations of programs' messages that are installed on the machine: gettext catalogues, sentence by sentence."""

from __future__ import annotations

import random
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from rayloom.contract import UserError, component
from rayloom.datasets import Dataset
from rayloom.datasets.digests import combined_digest
from rayloom_supervised.data.ragged import SizeConfig, ragged_dataset
from rayloom_supervised.data.symbols import END, SYMBOLS

_ORDERS = {b"\xde\x12\x04\x95": "<", b"\x95\x04\x12\xde": ">"}
_UNKNOWN = "(unknown)"
_FEWEST = 10


@dataclass(frozen=True, kw_only=True)
class CataloguesConfig:
    """Messages of the installed programs in English and another language, character by character."""

    path: str = "/usr/share/locale"
    """Folder with LANGUAGE/LC_MESSAGES/*.mo."""
    language: str = "zh_CN"
    """Language of the target."""
    longest: Annotated[int, Ge(1)] = 40
    """Most characters of a source and of a target: longer messages are left out."""
    source_vocabulary: Annotated[int, Gt(0)] = 100
    """Characters of the source that have a number of their own: the most frequent ones of the training split."""
    target_vocabulary: Annotated[int, Gt(0)] = 1500
    """The same of the target."""
    held_out: Annotated[int, Ge(1)] = 500
    """Messages of the validation split, and as many of the test split; at most a tenth of all."""


@component("data set", CataloguesConfig)
def catalogues(config: CataloguesConfig, seed: int) -> Dataset:
    """Return `source` [S] and `target` [T] (which ends with END), int64 and ragged.

    Each source is there once, and in one split, whatever the number of programs that say it. Upper and lower case are
    kept; messages with line breaks or format signs (%s) are left out.
    """
    folder = Path(config.path) / config.language / "LC_MESSAGES"
    paths = sorted(folder.glob("*.mo"))
    if not paths:
        raise UserError(
            f"source.dataset.path: there are no catalogues in {folder}; install programs with translations, or name "
            "another path or language"
        )
    found: dict[str, str] = {}
    for path in paths:
        for source, target in read_catalogue(path):
            if _fits(source, config.longest) and _fits(target, config.longest):
                found.setdefault(source, target)
    if len(found) < _FEWEST:
        raise UserError(f"source.dataset.path: {folder} has {len(found)} short messages, too few to learn from")
    pairs = sorted(found.items())
    random.Random(0).shuffle(pairs)
    held_out = min(config.held_out, len(pairs) // 10)
    sizes = SizeConfig(train_size=len(pairs) - 2 * held_out, validation_size=held_out, test_size=held_out)
    rows, names = {}, {}
    for side, (field, most, ends) in enumerate(
        (("source", config.source_vocabulary, []), ("target", config.target_vocabulary, [END]))
    ):
        texts = [pair[side] for pair in pairs]
        names[field], rows[field] = _numbered(texts, sizes.train_size, most, ends)
    made = ragged_dataset("catalogues", sizes, rows, names)
    made.digest = combined_digest(*pairs, config.longest, config.source_vocabulary, config.target_vocabulary, held_out)
    return made


def _fits(text: str, longest: int) -> bool:
    return 0 < len(text) <= longest and not {"\n", "\0", "%"} & {*text}


def _numbered(texts: list[str], learnt: int, most: int, ends: list[int]) -> tuple[tuple[str, ...], list[Tensor]]:
    """Return the names of the tokens, of the first `learnt` texts, and all texts as their numbers."""
    counts = Counter(character for text in texts[:learnt] for character in text)
    ordered = sorted(counts, key=lambda character: (-counts[character], character))[:most]
    names = (*SYMBOLS, _UNKNOWN, *ordered)
    numbers = {name: number for number, name in enumerate(names)}
    unknown = len(SYMBOLS)
    return names, [torch.tensor([*(numbers.get(sign, unknown) for sign in text), *ends]) for text in texts]


def read_catalogue(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the messages of a .mo file and their translations; of plurals the first form.

    The format is that of the GNU gettext manual: magic number, revision, count, and two tables of (length, offset).
    UserError for what is no such file.
    """
    content = path.read_bytes()
    order = _ORDERS.get(content[:4])
    try:
        if order is None:
            raise ValueError("no magic number")
        count, originals, translations = struct.unpack_from(f"{order}3I", content, 8)
        for number in range(count):
            pair = []
            for table in (originals, translations):
                length, offset = struct.unpack_from(f"{order}2I", content, table + 8 * number)
                if offset + length > len(content):
                    raise ValueError("cut off")
                pair.append(content[offset : offset + length].split(b"\0")[0].decode("utf-8"))
            if pair[0]:  # the empty message is the catalogue's head
                yield pair[0].rpartition("\x04")[2], pair[1]  # without its context
    except (ValueError, struct.error) as error:
        raise UserError(f"{path} is no UTF-8 gettext catalogue ({error}): remove it or name another path") from None
