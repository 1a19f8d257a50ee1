"""Reading the outputs of connectionist temporal classification (Graves et al. 2006); the loss is torch's."""

from __future__ import annotations

import math
from collections import defaultdict
from itertools import groupby

from torch import Tensor

from rayloom_supervised.layers.padding import inside

BLANK = 0
"""The output that writes nothing."""


def fewest_frames(labels: Tensor, lengths: Tensor) -> Tensor:
    """Return how many frames [B] labels [B, S] of true `lengths` [B] need: one each, and a blank between equal ones.

    Of a sequence with fewer frames no path reads as its labels.
    """
    between = inside(lengths - 1, labels.shape[1])[:, :-1]
    return lengths + ((labels[:, 1:] == labels[:, :-1]) & between).sum(dim=1)


def greedy_labels(log_probabilities: Tensor, length: int) -> list[int]:
    """Return the labels of the likeliest path through [T, V]: repeats are one, blanks are left out."""
    path = log_probabilities[:length].argmax(dim=1).tolist()
    return [label for label, _ in groupby(path) if label != BLANK]


def beam_labels(log_probabilities: Tensor, length: int, width: int) -> list[int]:
    """Return the likeliest labelling of [T, V] among `width` prefixes (Graves 2012, Hannun et al. 2014).

    A prefix's paths are summed, those that end with a blank apart from those that end with its last label, since only
    the first may go on with that label again. With enough prefixes the result is the most probable labelling.
    """
    beams: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, -math.inf)}
    for frame in log_probabilities[:length].tolist():
        new: dict[tuple[int, ...], list[float]] = defaultdict(lambda: [-math.inf, -math.inf])
        for prefix, (blank, label) in beams.items():
            either = log_add(blank, label)
            ends = new[prefix]
            ends[0] = log_add(ends[0], either + frame[BLANK])
            if prefix:
                ends[1] = log_add(ends[1], label + frame[prefix[-1]])
            for token in range(1, len(frame)):
                before = blank if prefix and token == prefix[-1] else either
                longer = new[(*prefix, token)]
                longer[1] = log_add(longer[1], before + frame[token])
        ranked = sorted(new.items(), key=lambda found: -log_add(*found[1]))[:width]
        beams = {prefix: (ends[0], ends[1]) for prefix, ends in ranked}
    return list(max(beams.items(), key=lambda found: log_add(*found[1]))[0])


def log_add(first: float, second: float) -> float:
    """Return log(exp(first) + exp(second))."""
    high, low = max(first, second), min(first, second)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))
