"""Tells of environments that do not come back.

A rollout worker of its own has a deadline, and is replaced. An environment in the learner's process has none: its step
may take as long as it likes, so that all there is to do is to say who is waited for, and where it is.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
import weakref
from typing import Protocol

LIMIT_S = 60.0
"""Seconds in one step or reset after which it is told, once for each environment."""
_LOOK_S = 2.0


class Watched(Protocol):
    """What can stand still."""

    entered: int
    """Calls that began."""
    left: int
    """The same number, once they have ended."""
    thread: int
    """Identifier of the thread that calls."""

    def describe(self) -> str:
        """Return what it is called."""


_Since = weakref.WeakKeyDictionary[Watched, tuple[int, float]]
_watched: weakref.WeakSet[Watched] = weakref.WeakSet()
_lock = threading.Lock()
_thread: threading.Thread | None = None


def watch(environment: Watched) -> None:
    """Look after an environment as long as it lives."""
    global _thread
    with _lock:  # the thread that looks iterates over them
        _watched.add(environment)
        if _thread is None or not _thread.is_alive():  # a forked process has none
            _thread = threading.Thread(target=_look, name="standstill", daemon=True)
            _thread.start()


def _look() -> None:
    since: _Since = weakref.WeakKeyDictionary()
    told: weakref.WeakSet[Watched] = weakref.WeakSet()
    while threading.current_thread() is _thread:
        time.sleep(min(_LOOK_S, LIMIT_S / 4))
        _look_once(since, told)


def _look_once(since: _Since, told: weakref.WeakSet[Watched]) -> None:
    """Tell of those that have been in one call for too long; `since` when each was first seen in its present one."""
    with _lock:
        environments = list(_watched)
    for environment in environments:
        entered, now = environment.entered, time.monotonic()
        if entered == environment.left or since.get(environment, (-1, now))[0] != entered:
            since[environment] = (entered, now)
        elif now - since[environment][1] >= LIMIT_S and environment not in told:
            told.add(environment)
            _tell(environment)


def _renew_lock() -> None:
    global _lock
    _lock = threading.Lock()  # that of the parent may be taken by a thread which the child has not


os.register_at_fork(after_in_child=_renew_lock)


def _tell(environment: Watched) -> None:
    frame = sys._current_frames().get(environment.thread)
    place = ""
    if frame is not None:
        last = traceback.extract_stack(frame)[-1]
        place = f", it is at {last.filename}:{last.lineno}"
    print(
        f"rayloom: {environment.describe()} have not come back from a step or reset for {LIMIT_S:g} s{place}; "
        "the run waits, Ctrl-C ends it",
        file=sys.stderr,
        flush=True,
    )
