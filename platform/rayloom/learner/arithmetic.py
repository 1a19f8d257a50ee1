"""How a learner's processor treats numbers that are nearly nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_SMALLEST = 5e-324


@contextmanager
def denormals_as_zero() -> Iterator[None]:
    """Take numbers too small to be held with full precision (float32: below 1.2e-38) as 0, in this thread.

    A processor needs a hundred times as long for them, and a gradient that vanishes through time consists of them: an
    LSTM's pass back over 200 steps took ten times as long. Only where torch computes with one thread, which is then
    this one: with several it would depend on when they were started who does so, and a run that goes on would differ.
    """
    already = _SMALLEST * 1.0 == 0
    if already or torch.get_num_threads() > 1 or not torch.set_flush_denormal(True):
        yield
        return
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
