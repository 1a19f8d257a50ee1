"""How far a written sequence is from the true one, by length too, and how well the next token is foretold."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from rayloom.contract import Figure, UserError


def edit_distance(written: Sequence[Hashable], true: Sequence[Hashable]) -> int:
    """Return the fewest insertions, deletions and substitutions between two sequences (Levenshtein 1966)."""
    row = list(range(len(true) + 1))
    for above, token in enumerate(written, start=1):
        diagonal, row[0] = row[0], above
        for column, wanted in enumerate(true, start=1):
            change = diagonal + (token != wanted)
            diagonal = row[column]
            row[column] = min(change, row[column] + 1, row[column - 1] + 1)
    return row[-1]


def edit_distances(written: Sequence[Sequence[int]], true: Sequence[Sequence[int]]) -> Tensor:
    """Return the edit distance [B] (float32) of each pair; over the true lengths it is an error rate.

    By the library rapidfuzz where it is installed (the extra `text`), which takes a hundredth of the time.
    """
    distance = _fast_distance() or edit_distance
    return torch.tensor([float(distance(ours, theirs)) for ours, theirs in zip(written, true, strict=True)])


@functools.cache
def _fast_distance() -> Callable[[Sequence[int], Sequence[int]], int] | None:
    if importlib.util.find_spec("rapidfuzz") is None:
        return None
    found: Callable[[Sequence[int], Sequence[int]], int] = importlib.import_module(
        "rapidfuzz.distance"
    ).Levenshtein.distance
    return found


def bleu(written: Sequence[str], true: Sequence[str], tokenize: str) -> float:
    """Return the BLEU score of a corpus, 0 to 100, by the library sacrebleu (Post 2018); UserError where it is missing.

    `tokenize` is one of its ways to cut texts: 13a for languages with blanks, zh, char.
    """
    try:
        sacrebleu: Any = importlib.import_module("sacrebleu")
    except ImportError:
        raise UserError("algorithm.bleu: needs the library sacrebleu: pip install 'rayloom[text]'") from None
    return float(sacrebleu.corpus_bleu(list(written), [list(true)], tokenize=tokenize).score)


def by_length(values: Tensor, counts: Tensor, lengths: Tensor, name: str) -> Figure:
    """Return the curve of the sums `values` [N] over the sums of `counts` [N], by the lengths [N] that occur."""
    places = torch.unique(lengths)
    rates = [float(values[lengths == place].sum() / counts[lengths == place].sum()) for place in places]
    return Figure("curves", torch.tensor([rates]), labels=(name,), x=places.float(), axes=("length", name))


def exact_matches(written: Sequence[Sequence[int]], true: Sequence[Sequence[int]]) -> Tensor:
    """Return 1 for each pair [B] (float32) of equal sequences, else 0."""
    return torch.tensor([float(list(ours) == list(theirs)) for ours, theirs in zip(written, true, strict=True)])


def bits(nats: Tensor) -> Tensor:
    """Return a cross-entropy in bits."""
    return nats / math.log(2)


def perplexity(nats: Tensor, count: Tensor) -> Tensor:
    """Return exp of the mean [] of summed cross-entropies [B] over `count` [B] tokens."""
    return (nats.double().sum() / count.double().sum()).exp().float()


def rows_of(padded: Tensor, lengths: Tensor) -> list[list[int]]:
    """Return padded numbers [B, T] as lists of their true lengths."""
    return [row[:length] for row, length in zip(padded.tolist(), lengths.tolist(), strict=True)]
