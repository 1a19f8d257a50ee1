"""Machines of bits learn the digits: independent bits have 27.2 nats, the draw of the bits alone 13.8."""

from __future__ import annotations

from pathlib import Path

import pytest

import rayloom


def reached(name: str, tmp_path: Path, *overrides: str) -> dict[str, float]:
    quiet = ("tracking.enabled=false", "tracking.pictures=false", f"output={tmp_path}", "evaluate.every=null")
    return dict(rayloom.run(name, *overrides, *quiet, local=True).metrics)


@pytest.mark.parametrize("name", ["rbm_digits", "rbm_pcd_digits"])
def test_a_restricted_machine_learns_the_digits(name: str, tmp_path: Path) -> None:
    small = ("algorithm.hidden_units=16", "algorithm.learning_rate=0.2", "stop.epochs=30", "algorithm.partition=exact")
    assert reached(name, tmp_path, *small)["evaluate/nll_exact_dynamic_bits"] < 24.6


def test_annealing_agrees_with_enumeration_after_training(tmp_path: Path) -> None:
    small = ("algorithm.hidden_units=16", "algorithm.learning_rate=0.2", "stop.epochs=30")
    exact = reached("rbm_digits", tmp_path, *small, "algorithm.partition=exact")["evaluate/log_partition_exact"]
    annealed = reached("rbm_digits", tmp_path, *small)["evaluate/log_partition_ais"]
    assert annealed == pytest.approx(exact, abs=0.1)


def test_a_deep_belief_network_learns_the_digits(tmp_path: Path) -> None:
    unlabelled = ("algorithm.fine_tuning=0", "algorithm.partition=ais", "stop.epochs=40")
    assert reached("dbn_digits", tmp_path, *unlabelled)["evaluate/nll_bound_ais_dynamic_bits"] < 25.5
    assert reached("dbn_digits", tmp_path)["evaluate/accuracy"] > 0.93


def test_a_boltzmann_machine_learns_bars_and_stripes(tmp_path: Path) -> None:
    found = reached("boltzmann_machine_patterns", tmp_path, "stop.epochs=20", "algorithm.learning_rate=0.3")
    assert found["evaluate/nll_exact"] < 3.36  # 4.16 of fair coins; 3.30 is the best without hidden units
    assert found["evaluate/gibbs_total_variation"] < 0.01
