"""What can go wrong between a writer process and the tracking server."""

from __future__ import annotations

METRICS_PER_BATCH = 1000


class UnreachableError(Exception):
    """The server does not answer, or not now: the same call may succeed later."""


class RefusedError(Exception):
    """The server understood the call and will never accept it."""
