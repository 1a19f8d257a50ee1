"""Trees, graphs, captions, handwriting and long lags are learnt in seconds, better than by what lacks the structure."""

from __future__ import annotations

from pathlib import Path

import pytest

import rayloom

QUIET = ("tracking.enabled=false", "tracking.pictures=false", "evaluate.every=null", "checkpoint.best=null")


def reached(name: str, folder: Path, *settings: str) -> dict[str, float]:
    return dict(rayloom.run(name, *QUIET, *settings, f"output={folder}", local=True).metrics)


def test_the_truth_of_a_formula_is_in_its_structure(tmp_path: Path) -> None:
    data = ("train_size=2500", "most=4", "test_most=4")
    small = (*(f"source.dataset.{size}" for size in data), "stop.epochs=6")
    by_tree = reached("tree_lstm_formulas", tmp_path, *small)["evaluate/accuracy"]
    by_bag = reached("tree_lstm_formulas", tmp_path, *small, "algorithm.network={kind: bag}")["evaluate/accuracy"]
    assert by_tree >= 0.95 and by_bag <= 0.8


def test_distances_are_in_the_edges(tmp_path: Path) -> None:
    small = (
        "source.dataset.train_size=2000",
        "source.dataset.smallest=8",
        "source.dataset.largest=12",
        "stop.epochs=4",
    )
    near = (*small, "source.dataset.farthest=2", "algorithm.network.size=24")
    by_edges = reached("message_passing_distances", tmp_path, *near, "algorithm.network.steps=2")["evaluate/accuracy"]
    without = reached("message_passing_distances", tmp_path, *near, "algorithm.network.steps=0")["evaluate/accuracy"]
    assert by_edges >= 0.85 and without <= 0.5


@pytest.mark.full
def test_captions_are_about_the_picture(tmp_path: Path) -> None:
    data = ("train_size=1500", "validation_size=100", "test_size=10")
    small = (*(f"source.dataset.{size}" for size in data), "algorithm.channels=24", "algorithm.cell_size=48")
    faster = ("learner.batch_size=32", "learner.optimizer.learning_rate=6.0e-3", "stop={updates: 140}")
    found = reached("captions_scenes", tmp_path, *small, *faster)
    # Who does not see the picture pays at least log 6 twice and log 4 three times in a sentence of 8.5 words: 0.91.
    assert found["evaluate/loss"] <= 0.85


def test_the_pen_is_foretold_better_than_by_regression(tmp_path: Path) -> None:
    data = ("characters=abc123", "train_size=1500", "validation_size=200", "test_size=10")
    small = (*(f"source.dataset.{size}" for size in data), "algorithm.reader=false", "algorithm.cell_size=64")
    faster = ("learner.batch_size=32", "learner.optimizer.learning_rate=1.0e-2", "stop={updates: 200}")
    assert reached("handwriting_characters", tmp_path, *small, *faster)["evaluate/margin"] >= 1.0


def test_gates_remember_what_a_simple_network_forgets(tmp_path: Path) -> None:
    data = "source.dataset={import: 'rayloom_supervised.data.long_lags:remembering', train_size: 2000, lag: 40}"
    steps = (data, "stop={updates: 120}", "learner.optimizer.learning_rate=1.0e-2")
    gated, simple = (reached("gru_adding", tmp_path, *steps, f"algorithm.cell={cell}") for cell in ("linear", "srn"))
    assert gated["evaluate/solved"] >= 0.9 > 0.5 >= simple["evaluate/solved"]
