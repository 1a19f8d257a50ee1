"""Classifiers on Fashion-MNIST: softmax regression beside scikit-learn's optimum, LeNet-5 in a short run."""

from __future__ import annotations

from pathlib import Path

import pytest

import rayloom
from conftest import require_fashion_mnist
from rayloom.config import load
from rayloom.datasets import load as load_dataset
from rayloom.execution import evaluate


def _accuracy(result: rayloom.execution.Result, tmp_path: Path) -> float:
    metrics = evaluate(result.run_dir.name, output=str(tmp_path), split="test")
    return metrics["evaluate/accuracy"]


@pytest.mark.timeout(900)
def test_softmax_regression_is_within_a_tenth_of_a_point_of_scikit_learn(tmp_path: Path) -> None:
    require_fashion_mnist()
    from sklearn.linear_model import LogisticRegression

    name = "softmax_regression_fashion_mnist"
    result = rayloom.run(name, "tracking.enabled=false", f"output={tmp_path}", local=True)
    mine = _accuracy(result, tmp_path)
    data = load_dataset("fashion-mnist", 0, {})
    train, test = data.train["image"].flatten(1).numpy() / 255.0, data.test["image"].flatten(1).numpy() / 255.0
    config = load(name)
    oracle = LogisticRegression(C=1e6, max_iter=config.stop["epochs"] and 100)
    oracle.fit(train, data.train["label"].numpy())
    theirs = float(oracle.score(test, data.test["label"].numpy()))
    assert mine >= 0.842
    assert abs(mine - theirs) <= 0.001 or mine > theirs, (mine, theirs)


@pytest.mark.timeout(600)
def test_lenet5_reaches_ninety_percent_in_a_short_run(tmp_path: Path) -> None:
    require_fashion_mnist()
    overrides = ("stop={epochs: 3}", "tracking.enabled=false", f"output={tmp_path}")
    result = rayloom.run("lenet5_fashion_mnist", *overrides, local=True)
    assert _accuracy(result, tmp_path) >= 0.90
