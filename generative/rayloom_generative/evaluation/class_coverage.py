"""How well samples cover the classes of the data, as a classifier reads both; pure functions, in float64."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_PARTS = 10
"""The samples have a class where they have one part of so many of its share of the data."""


class ClassCoverage(NamedTuple):
    """How two sets of class labels compare."""

    share: Tensor
    """Share of the data's classes that the samples have."""
    divergence: Tensor
    """KL divergence (nats) of the samples' distribution over the classes from that of the data; 0 is best."""


def class_coverage(samples: Tensor, data: Tensor, classes: int) -> ClassCoverage:
    """Compare the classes of samples [N] with those of data [M], whole numbers below `classes`.

    A class of the data counts as covered where the samples have a tenth of its share at least: a model that has dropped
    it may still have a sample or two that a classifier misreads. One further example of each class among the data keeps
    the divergence finite.
    """
    counts, theirs = (torch.bincount(each, minlength=classes) for each in (samples, data))
    known = theirs > 0
    # Whole numbers on both sides: the border itself is covered.
    covered = (_PARTS * counts * len(data) >= theirs * len(samples))[known].double().mean()
    own, smoothed = counts.double() / len(samples), (theirs + 1).double() / (len(data) + classes)
    return ClassCoverage(covered, (torch.special.xlogy(own, own) - torch.special.xlogy(own, smoothed)).sum())
