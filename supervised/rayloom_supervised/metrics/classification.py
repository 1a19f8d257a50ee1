"""Measures of classification as pure functions of tensors: no config, no model, no host synchronisation.

Classes without a prediction or without an example have precision, recall or F1 zero where the quotient is 0 / 0.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class ClassScores(NamedTuple):
    """Precision, recall and F1 of each class, [K] each."""

    precision: Tensor
    recall: Tensor
    f1: Tensor


def accuracy(prediction: Tensor, label: Tensor) -> Tensor:
    """Return for each example 1 where the prediction [B] equals the label [B], else 0 (float32)."""
    return (prediction == label).float()


def confusion_matrix(prediction: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """Count examples by label (row) and prediction (column): int64 [K, K]."""
    cells = torch.bincount(label * num_classes + prediction, minlength=num_classes * num_classes)
    return cells.view(num_classes, num_classes)


def class_scores(confusion: Tensor) -> ClassScores:
    """Return precision, recall and F1 = 2PR / (P + R) of each class from a confusion matrix [K, K]."""
    hits = confusion.diagonal().double()
    predicted, actual = confusion.sum(dim=0), confusion.sum(dim=1)
    return ClassScores(_ratio(hits, predicted), _ratio(hits, actual), _ratio(2 * hits, predicted + actual))


def macro_precision(confusion: Tensor) -> Tensor:
    """Return the mean of the classes' precisions."""
    return class_scores(confusion).precision.mean()


def macro_recall(confusion: Tensor) -> Tensor:
    """Return the mean of the classes' recalls."""
    return class_scores(confusion).recall.mean()


def macro_f1_class_mean(confusion: Tensor) -> Tensor:
    """Return the mean of the classes' F1, which scikit-learn calls macro-F1."""
    return class_scores(confusion).f1.mean()


def macro_f1_harmonic(confusion: Tensor) -> Tensor:
    """Return the harmonic mean of macro-precision and macro-recall, which textbooks call macro-F1.

    Never below `macro_f1_class_mean` (Opitz and Burst 2019, "Macro F1 and Macro F1").
    """
    precision, recall = macro_precision(confusion), macro_recall(confusion)
    return _ratio(2 * precision * recall, precision + recall)


def micro_f1(confusion: Tensor) -> Tensor:
    """Return F1 over the pooled counts; with one label per example it equals micro-precision, -recall and accuracy."""
    return _ratio(confusion.diagonal().sum().double(), confusion.sum())


def expected_calibration_error(confidence: Tensor, hit: Tensor, bins: int = 15) -> Tensor:
    """Return the gap between confidence and accuracy in equal bins of confidence, averaged over examples: a scalar.

    `confidence` [N] is the probability of the predicted class, `hit` [N] 1 where it is right. Bins are (low, high], as
    in Guo et al. (2017), "On calibration of modern neural networks".
    """
    position = (confidence.double() * bins).ceil().long().clamp(1, bins) - 1
    gaps = torch.zeros(bins, dtype=torch.float64, device=confidence.device)
    gaps = gaps.index_add(0, position, hit.double() - confidence.double())
    return gaps.abs().sum() / len(confidence)


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    return torch.where(denominator > 0, numerator / denominator, 0.0)


def most_likely(logits: Tensor) -> dict[str, Tensor]:
    """Return the class `label` of the largest of the logits [B, K], int64 [B], and its `probability` [B]."""
    probability, label = logits.float().softmax(dim=1).max(dim=1)
    return {"label": label, "probability": probability}
