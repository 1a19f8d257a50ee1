"""Lines of a writer process, which go to a file in the run folder."""

from __future__ import annotations

import sys
import time


def say(text: str) -> None:
    """Write a line to writer.log."""
    print(time.strftime("%Y-%m-%d %H:%M:%S"), text, file=sys.stderr, flush=True)
