"""What a command does when its user or its machine asks it to stop: SIGINT (Ctrl-C), SIGTERM, SIGHUP."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

_ENDING = (signal.SIGTERM, signal.SIGHUP)


class Terminated(BaseException):
    """SIGTERM arrived, or SIGHUP from a closed terminal: the run ends like after Ctrl-C."""

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number
        """What a shell reports for a process that this signal ended."""


@contextlib.contextmanager
def sigterm_raises() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into an exception in the main thread; elsewhere signals are the caller's business.

    An ignored SIGHUP stays ignored: the command runs under nohup.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated(number)

    before = {number: signal.getsignal(number) for number in _ENDING}
    changed = {n: handler for n, handler in before.items() if n == signal.SIGTERM or handler is signal.SIG_DFL}
    for number in changed:
        signal.signal(number, terminate)
    try:
        yield
    finally:
        _restore(changed)


def _restore(handlers: Mapping[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        if handler is not None:  # None: a handler that Python did not install, and cannot install again
            signal.signal(number, handler)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let the first SIGINT, SIGTERM or SIGHUP wait until the block has ended; a second one is obeyed at once.

    For writes of other libraries that an exception in their middle would leave half done: Optuna's file lock, left
    by a signal while it is given back, raises FileNotFoundError instead of what the signal meant.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *_ENDING)}
    arrived: list[int] = []

    def wait(number: int, frame: FrameType | None) -> None:
        arrived.append(number)
        if len(arrived) > 1:
            _restore(before)
            signal.raise_signal(number)

    for number, handler in before.items():
        if handler is not None and handler is not signal.SIG_IGN:
            signal.signal(number, wait)
    try:
        yield
    finally:
        _restore(before)
        if len(arrived) == 1:
            signal.raise_signal(arrived[0])
