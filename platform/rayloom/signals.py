"""What a command does when its user or its machine asks it to stop: SIGINT (Ctrl-C) and SIGTERM."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Terminated(BaseException):
    """SIGTERM arrived: the run ends like after Ctrl-C."""


@contextlib.contextmanager
def sigterm_raises() -> Iterator[None]:
    """Turn SIGTERM into an exception in the main thread; elsewhere signals are the caller's business."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let the first SIGINT or SIGTERM wait until the block has ended; a second one is obeyed at once.

    For writes of other libraries that an exception in their middle would leave half done: Optuna's file lock, left
    by a signal while it is given back, raises FileNotFoundError instead of what the signal meant.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    arrived: list[int] = []

    def wait(number: int, frame: FrameType | None) -> None:
        arrived.append(number)
        if len(arrived) > 1:
            restore()
            signal.raise_signal(number)

    def restore() -> None:
        for number, handler in before.items():
            if handler is not None:  # None: a handler that Python did not install, and cannot install again
                signal.signal(number, handler)

    for number, handler in before.items():
        if handler is not None:
            signal.signal(number, wait)
    try:
        yield
    finally:
        restore()
        if len(arrived) == 1:
            signal.raise_signal(arrived[0])
