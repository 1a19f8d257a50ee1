"""How far a written sequence is from the true one, and how well the next token is foretold."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor


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
    """Return the edit distance [B] (float32) of each pair; over the true lengths it is an error rate."""
    return torch.tensor([float(edit_distance(ours, theirs)) for ours, theirs in zip(written, true, strict=True)])


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
