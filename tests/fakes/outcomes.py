"""How a command ends that may be given anything."""

from __future__ import annotations

import io
import signal
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

from rayloom.cli.main import main

LONGEST_S = 60


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in what takes longer."""

    def late(number: int, frame: Any) -> None:
        raise TimeoutError(f"not ended within {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(*words: str) -> tuple[int, str]:
    """Return a command's exit code and what it said; an exception of ours passes through."""
    told, result = io.StringIO(), io.StringIO()
    with within(LONGEST_S), redirect_stderr(told), redirect_stdout(result):
        code = main(list(words))
    return code, told.getvalue()
