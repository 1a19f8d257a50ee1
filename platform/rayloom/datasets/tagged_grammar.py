"""Sentences of a small probabilistic grammar with their parts of speech, generated from the run's seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor

from rayloom.components import component
from rayloom.contract import TensorSpec
from rayloom.datasets.dataset import Dataset
from rayloom.datasets.splits import SPLITS
from rayloom.datasets.tables import RaggedTable
from rayloom.seeding import derive_seed

LEXICON: Mapping[str, tuple[str, ...]] = {
    "determiner": ("the", "a", "that"),
    "adjective": ("old", "light", "cold", "calm", "green", "long"),
    "noun": ("man", "light", "watch", "cold", "calm", "green", "boat", "play", "love", "mother"),
    "verb": ("man", "light", "watch", "calm", "play", "love", "boat", "long", "mother"),
    "preposition": ("in", "on", "near"),
    "pronoun": ("she", "he", "that"),
}
"""Words of each part of speech; most of them belong to several."""
TAGS = tuple(LEXICON)
WORDS = tuple(sorted({word for words in LEXICON.values() for word in words}))

_DEEPEST = 3  # prepositional phrases inside each other
_PRONOUN, _ADJECTIVE, _INSIDE, _OBJECT, _ADVERBIAL = 0.3, 0.4, 0.2, 0.7, 0.4


@dataclass(frozen=True, kw_only=True)
class TaggedGrammarConfig:
    """Sentences of a generated grammar whose words are ambiguous, with a part of speech for each word."""

    train_size: Annotated[int, Ge(1), Le(10_000_000)] = 2_000
    """Sentences to learn from."""
    validation_size: Annotated[int, Ge(1), Le(10_000_000)] = 500
    """Held-out sentences for development."""
    test_size: Annotated[int, Ge(1), Le(10_000_000)] = 500
    """Held-out sentences for the last word."""


def _noun_phrase(random: Random, depth: int) -> list[str]:
    if random.random() < _PRONOUN:
        return ["pronoun"]
    tags = ["determiner"]
    while random.random() < _ADJECTIVE:
        tags.append("adjective")
    tags.append("noun")
    if depth < _DEEPEST and random.random() < _INSIDE:
        tags += ["preposition", *_noun_phrase(random, depth + 1)]
    return tags


def _sentence(random: Random) -> tuple[list[int], list[int]]:
    """Return the words and tags of S -> NP verb [NP] [preposition NP], as numbers."""
    tags = [*_noun_phrase(random, 0), "verb"]
    if random.random() < _OBJECT:
        tags += _noun_phrase(random, 0)
    if random.random() < _ADVERBIAL:
        tags += ["preposition", *_noun_phrase(random, 1)]
    words = [random.choice(LEXICON[tag]) for tag in tags]
    return [WORDS.index(word) for word in words], [TAGS.index(tag) for tag in tags]


def _joined(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    offsets = torch.tensor([0, *map(len, rows)]).cumsum(0)
    return torch.tensor([value for row in rows for value in row]), offsets


@component("data set", TaggedGrammarConfig)
def load_tagged_grammar(config: TaggedGrammarConfig, seed: int) -> Dataset:
    """Return sentences as ragged fields: `token` and its `tag`, int64 [L]."""
    sizes = (config.train_size, config.validation_size, config.test_size)
    tables, longest = [], 0
    for split, size in zip(SPLITS, sizes, strict=True):
        random = Random(derive_seed(seed, "dataset", "tagged-grammar", split))
        sentences = [_sentence(random) for _ in range(size)]
        longest = max(longest, *(len(words) for words, _ in sentences))
        ragged = {"token": _joined([words for words, _ in sentences]), "tag": _joined([tags for _, tags in sentences])}
        tables.append(RaggedTable(ragged, {}))
    spec = {
        name: TensorSpec(shape=(longest,), dtype=torch.int64, num_values=len(labels), labels=labels, ragged=True)
        for name, labels in (("token", WORDS), ("tag", TAGS))
    }
    spec |= {f"{name}_length": TensorSpec(shape=(), dtype=torch.int64) for name in ("token", "tag")}
    train, validation, test = tables
    return Dataset(train, validation, test, spec, "tagged-grammar")
