"""What several seeds say together: Agarwal et al. (2021), "Deep reinforcement learning at the edge of the statistical
precipice".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rayloom.seeding import numpy_generator

REPETITIONS = 10_000
_CONFIDENCE = 0.95
_MOST = 2**24  # numbers that are resampled at once


class ConfidenceInterval(NamedTuple):
    """An interquartile mean with its stratified bootstrap interval of 95 %."""

    mean: float
    low: float
    high: float
    runs: int
    """How many scores are behind it."""


def interquartile_mean(scores: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the mean of the middle half of the scores [..., N], [...]; a quarter, rounded down, falls off each end."""
    count = scores.shape[-1]
    cut = count // 4
    # Only the order around the two cuts matters.
    ordered = np.partition(scores, (cut, count - cut - 1), axis=-1)
    middle: np.ndarray[Any, Any] = ordered[..., cut : count - cut].mean(axis=-1)
    return middle


def interquartile_interval(
    strata: Sequence[Sequence[float]], repetitions: int = REPETITIONS, seed: int = 0
) -> ConfidenceInterval:
    """Return the interquartile mean over all scores and its interval, by the percentiles of a stratified bootstrap.

    Each of the `strata` has the scores of one task's runs: a resample draws as many of them with replacement from each
    task by itself. Scores of several tasks must be of one scale. Equal seeds give equal intervals.
    """
    tasks = [np.asarray(scores, dtype=np.float64) for scores in strata if len(scores)]
    together = np.concatenate(tasks)
    generator = numpy_generator(seed, "bootstrap")
    chunk = max(1, _MOST // len(together))
    found = []
    for start in range(0, repetitions, chunk):
        rows = min(chunk, repetitions - start)
        drawn = [task[generator.integers(len(task), size=(rows, len(task)))] for task in tasks]
        found.append(interquartile_mean(np.concatenate(drawn, axis=1)))
    tail = 100 * (1 - _CONFIDENCE) / 2
    low, high = np.percentile(np.concatenate(found), (tail, 100 - tail))
    return ConfidenceInterval(float(interquartile_mean(together)), float(low), float(high), len(together))
