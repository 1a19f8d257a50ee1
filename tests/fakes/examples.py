"""How many examples the property tests try: few in the quick form, many in `make test-full`."""

from __future__ import annotations

import os

FULL = os.environ.get("RAYLOOM_TESTS") == "full"


def examples(full: int, short: int) -> int:
    """Return `full` where the whole suite runs (RAYLOOM_TESTS=full), else `short`."""
    return full if FULL else short
