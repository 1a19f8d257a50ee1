"""How a check says that a promise is not kept."""

from __future__ import annotations


class ConformanceError(AssertionError):
    """A promise of the contract that is not kept, in one sentence."""


def require(kept: bool, sentence: str) -> None:
    """Raise ConformanceError with the sentence unless the promise is kept."""
    if not kept:
        raise ConformanceError(sentence)
