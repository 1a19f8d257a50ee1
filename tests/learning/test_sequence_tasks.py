"""Sequence to sequence learns dates in seconds where the decoder can look at what was read, and not without."""

from __future__ import annotations

from pathlib import Path

import pytest

import rayloom

QUIET = ("tracking.enabled=false", "tracking.pictures=false", "evaluate.every=null")


def exact_match(attention: str, folder: Path) -> float:
    settings = (f"algorithm.attention={attention}", "stop.epochs=5", "checkpoint.best=null", f"output={folder}")
    return float(rayloom.run("seq2seq_dates", *QUIET, *settings, local=True).metrics["evaluate/exact_match"])


@pytest.mark.parametrize("attention", ["additive"])
def test_dates_are_translated_by_attention(attention: str, tmp_path: Path) -> None:
    assert exact_match(attention, tmp_path) >= 0.8


@pytest.mark.full
def test_attention_beats_none(tmp_path: Path) -> None:
    assert exact_match("none", tmp_path) < 0.5


def test_two_facts_are_found(tmp_path: Path) -> None:
    settings = ("checkpoint.best=null", f"output={tmp_path}")
    assert rayloom.run("memory_network_facts", *QUIET, *settings, local=True).metrics["evaluate/accuracy"] >= 0.9
