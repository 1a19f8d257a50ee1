"""Signals that wait: a write is never left half done, and never keeps its user waiting twice."""

from __future__ import annotations

import signal

import pytest

from rayloom.signals import Terminated, sigterm_raises, undisturbed


@pytest.mark.parametrize(
    ("number", "kind"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated), (signal.SIGHUP, Terminated)],
)
def test_the_first_signal_waits_for_the_end_of_the_block(number: signal.Signals, kind: type[BaseException]) -> None:
    steps: list[str] = []
    with sigterm_raises(), pytest.raises(kind):
        with undisturbed():
            signal.raise_signal(number)
            steps.append("in the block")
        steps.append("after the block")
    assert steps == ["in the block"]


def test_a_second_signal_is_obeyed_at_once() -> None:
    steps: list[str] = []
    with pytest.raises(KeyboardInterrupt), undisturbed():
        signal.raise_signal(signal.SIGINT)
        steps.append("first")
        signal.raise_signal(signal.SIGINT)
        steps.append("second")
    assert steps == ["first"]


def test_an_error_in_the_block_keeps_the_signal_and_the_signal_keeps_the_error() -> None:
    with pytest.raises(KeyboardInterrupt) as caught, undisturbed():
        signal.raise_signal(signal.SIGINT)
        raise OSError("the disk is full")
    assert isinstance(caught.value.__context__, OSError)


def test_a_closed_terminal_ends_a_run_as_sigterm_does_unless_nohup_says_otherwise() -> None:
    with sigterm_raises(), pytest.raises(Terminated) as caught:
        signal.raise_signal(signal.SIGHUP)
    assert caught.value.exit_code == 129
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with sigterm_raises(), undisturbed():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_are_as_before() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with sigterm_raises(), undisturbed():
        pass
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
