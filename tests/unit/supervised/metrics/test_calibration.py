"""The expected calibration error by hand and by a plain loop, and the table of the classes' scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rayloom import datasets
from rayloom_supervised.metrics.classification import expected_calibration_error
from rayloom_supervised.networks.kinds import NETWORKS
from rayloom_supervised.tasks.classification import Classifier, ClassifierConfig


def test_calibration_error_by_hand() -> None:
    """Two bins: of (0, 1/2] one with 0.4 and right, of (1/2, 1] 0.9 right and 0.7 wrong: (0.6 + 0.6) / 3."""
    confidence, hit = torch.tensor([0.4, 0.9, 0.7]), torch.tensor([1.0, 1.0, 0.0])
    assert float(expected_calibration_error(confidence, hit, bins=2)) == pytest.approx(1.2 / 3)
    # The edge belongs to the lower bin: one gap of |(1 - 0.5) + (0 - 0.4)|, and not two of 0.5 and 0.4.
    edge = expected_calibration_error(torch.tensor([0.5, 0.4]), torch.tensor([1.0, 0.0]), bins=2)
    assert float(edge) == pytest.approx(0.1 / 2)


@pytest.mark.parametrize("seed", [0, 1])
def test_calibration_error_is_its_definition(seed: int) -> None:
    generator = np.random.default_rng(seed)
    confidence, hit = generator.random(200), generator.random(200) < 0.6
    expected = 0.0
    for index in range(15):
        members = (confidence > index / 15) & (confidence <= (index + 1) / 15)
        if members.any():
            expected += members.mean() * abs(hit[members].mean() - confidence[members].mean())
    found = expected_calibration_error(torch.from_numpy(confidence), torch.from_numpy(hit))
    assert float(found) == pytest.approx(expected)


def test_the_classifier_reports_calibration_and_class_scores() -> None:
    data = datasets.load("digits", 0)
    classifier = Classifier(ClassifierConfig(network=NETWORKS.component("softmax_regression")), data.spec)
    with torch.no_grad():
        outputs = classifier.evaluate(classifier.prepare(data.validation.columns))
    scores, figures = classifier.summarize(outputs)
    # All weights are 0: every digit is a 0 with confidence 1/10, and a tenth of them is.
    assert float(scores["calibration_error"]) == pytest.approx(0.0, abs=1e-6)
    table = figures["class_scores"]
    assert table.column_labels == ("precision", "recall", "f1")
    assert table.data is not None
    assert table.data[0].tolist() == pytest.approx([0.1, 1.0, 2 / 11])
    assert not table.data[1:].any()
