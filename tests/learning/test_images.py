"""Classifiers on Fashion-MNIST: softmax regression beside scikit-learn's optimum, LeNet-5 in a short run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import rayloom
from conftest import require_fashion_mnist
from rayloom.config.load import load
from rayloom.datasets import load as load_dataset
from rayloom.launch.trained import evaluate
from rayloom.runs.observer import Result


def _accuracy(result: Result, tmp_path: Path) -> float:
    metrics = evaluate(result.run_dir.name, "evaluate.split=test", output=str(tmp_path)).metrics
    return metrics["evaluate/accuracy"]


@pytest.mark.timeout(900)
def test_softmax_regression_is_within_a_tenth_of_a_point_of_scikit_learn(tmp_path: Path) -> None:
    require_fashion_mnist()
    from sklearn.linear_model import LogisticRegression

    name = "softmax_regression_fashion_mnist"
    result = rayloom.run(name, "tracking.enabled=false", "tracking.pictures=false", f"output={tmp_path}", local=True)
    mine = _accuracy(result, tmp_path)
    data, settings = load_dataset("fashion-mnist", 0), load(name).algorithm

    def rows(split: dict[str, torch.Tensor]) -> Any:
        return ((split["image"].flatten(1) / 255 - settings.input_mean) / settings.input_std).numpy()  # type: ignore[attr-defined]

    # scikit-learn minimises C * sum(loss) + |W|^2 / 2, the config mean(loss) + l2 * |W|^2 / 2.
    oracle = LogisticRegression(C=1 / (len(data.train["label"]) * settings.l2), max_iter=300)  # type: ignore[attr-defined]
    oracle.fit(rows(data.train), data.train["label"].numpy())
    theirs = float(oracle.score(rows(data.test), data.test["label"].numpy()))
    assert mine >= 0.842
    assert abs(mine - theirs) <= 0.001, (mine, theirs)


@pytest.mark.full
@pytest.mark.timeout(600)
def test_lenet5_reaches_ninety_percent_in_a_short_run(tmp_path: Path) -> None:
    require_fashion_mnist()
    short = ("stop={epochs: 3}", "source.augment=[]", "learner.batch_size=32", "algorithm.network.dropout=0.5")
    plain = ("tracking.enabled=false", "tracking.pictures=false", f"output={tmp_path}")
    result = rayloom.run("lenet5_fashion_mnist", *short, *plain, local=True)
    assert _accuracy(result, tmp_path) >= 0.90
