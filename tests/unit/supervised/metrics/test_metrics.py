"""Measures of classification against scikit-learn and numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from sklearn import metrics as oracle

from rayloom_supervised.metrics import classification as metrics

# Rows are labels, columns predictions. Precisions 4/6, 2/4, 2/2; recalls 4/5, 2/4, 2/3.
BY_HAND = torch.tensor([[4, 1, 0], [2, 2, 0], [0, 1, 2]])


def test_confusion_matrix_by_hand() -> None:
    label = torch.tensor([0, 0, 1, 2, 2, 2])
    prediction = torch.tensor([0, 1, 1, 2, 0, 2])
    found = metrics.confusion_matrix(prediction, label, 4)
    assert found.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 2, 0], [0, 0, 0, 0]]
    assert metrics.accuracy(prediction, label).tolist() == [1, 0, 1, 1, 0, 1]


def test_the_two_macro_f1_by_hand() -> None:
    precision, recall = [4 / 6, 2 / 4, 2 / 2], [4 / 5, 2 / 4, 2 / 3]
    scores = metrics.class_scores(BY_HAND)
    assert scores.precision.tolist() == pytest.approx(precision)
    assert scores.recall.tolist() == pytest.approx(recall)
    # F1: 8/11, 1/2, 4/5.
    assert scores.f1.tolist() == pytest.approx([8 / 11, 0.5, 0.8])
    assert float(metrics.macro_f1_class_mean(BY_HAND)) == pytest.approx((8 / 11 + 0.5 + 0.8) / 3)
    # Macro-precision 13/18, macro-recall 59/90: 2 * (13/18) * (59/90) / (13/18 + 59/90) = 767/1116.
    assert float(metrics.macro_precision(BY_HAND)) == pytest.approx(13 / 18)
    assert float(metrics.macro_recall(BY_HAND)) == pytest.approx(59 / 90)
    assert float(metrics.macro_f1_harmonic(BY_HAND)) == pytest.approx(767 / 1116)
    assert float(metrics.micro_f1(BY_HAND)) == pytest.approx(8 / 12)


@pytest.mark.parametrize("seed", range(5))
def test_scores_equal_scikit_learns(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 6, (60,), generator=generator)
    # Class 5 is never predicted, and class 4 never occurs where seed is 0.
    prediction = torch.where(torch.rand(60, generator=generator) < 0.6, label, torch.randint(0, 5, (60,)))
    prediction = prediction.clamp(max=4)
    if seed == 0:
        label = label.where(label != 4, 3)
    found = metrics.confusion_matrix(prediction, label, 6)
    classes = list(range(6))
    assert found.tolist() == oracle.confusion_matrix(label, prediction, labels=classes).tolist()
    precision, recall, f1, _ = oracle.precision_recall_fscore_support(
        label, prediction, labels=classes, zero_division=0.0
    )
    scores = metrics.class_scores(found)
    assert scores.precision.tolist() == pytest.approx(precision.tolist())
    assert scores.recall.tolist() == pytest.approx(recall.tolist())
    assert scores.f1.tolist() == pytest.approx(f1.tolist())
    options = {"labels": classes, "zero_division": 0.0}
    expected = oracle.f1_score(label, prediction, average="macro", **options)
    assert float(metrics.macro_f1_class_mean(found)) == pytest.approx(expected)
    assert float(metrics.micro_f1(found)) == pytest.approx(oracle.accuracy_score(label, prediction))
    assert float(metrics.macro_f1_harmonic(found)) >= expected


def test_nothing_right_is_zero_everywhere() -> None:
    nothing = torch.tensor([[0, 3], [2, 0]])
    for score in (metrics.macro_f1_class_mean, metrics.macro_f1_harmonic, metrics.micro_f1):
        assert float(score(nothing)) == 0.0
