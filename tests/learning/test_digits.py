"""Convolutional and recurrent networks learn the digits in a few epochs."""

from __future__ import annotations

from pathlib import Path

import pytest

import rayloom


@pytest.mark.parametrize(
    ("name", "overrides", "least"),
    [
        ("cnn_digits", ("stop.epochs=8",), 0.95),
        ("rnn_digits", ("stop.epochs=8",), 0.90),
        ("rnn_digits", ("stop.epochs=8", "algorithm.network.cell=gru"), 0.90),
        ("rnn_digits", ("stop.epochs=8", "algorithm.network.cell=rnn"), 0.90),
    ],
)
def test_digits_are_learnt(name: str, overrides: tuple[str, ...], least: float, tmp_path: Path) -> None:
    quiet = ("tracking.enabled=false", "tracking.pictures=false", f"output={tmp_path}", "evaluate.every=null")
    result = rayloom.run(name, *overrides, *quiet, local=True)
    assert result.metrics["evaluate/accuracy"] >= least
