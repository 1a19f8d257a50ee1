"""Which classes samples cover."""

from __future__ import annotations

import math

import pytest
import torch

from rayloom_generative.evaluation.class_coverage import class_coverage


def test_by_hand() -> None:
    data = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2])  # with one more of each: 5, 4, 3 and 1 of 13
    covered = class_coverage(torch.tensor([0, 0, 1, 1]), data, 4)
    assert float(covered.share) == pytest.approx(2 / 3), "nobody has class 3"
    wanted = 0.5 * math.log(0.5 / (5 / 13)) + 0.5 * math.log(0.5 / (4 / 13))
    assert float(covered.divergence) == pytest.approx(wanted)


def test_the_data_cover_themselves() -> None:
    data = torch.arange(300) % 10
    covered = class_coverage(data, data, 10)
    assert float(covered.share) == 1 and float(covered.divergence) == pytest.approx(0, abs=1e-9)


def test_a_few_misread_samples_are_no_class() -> None:
    data = torch.arange(1000) % 10
    samples = torch.cat((torch.zeros(985, dtype=torch.int64), torch.ones(9, dtype=torch.int64), torch.full((6,), 2)))
    assert float(class_coverage(samples, data, 10).share) == 0.1
    # Ten in a thousand are a tenth of the class's tenth.
    assert float(class_coverage(torch.cat((samples[1:], torch.ones(1, dtype=torch.int64))), data, 10).share) == 0.2


def test_one_class_diverges_by_the_logarithm_of_their_number() -> None:
    covered = class_coverage(torch.zeros(100, dtype=torch.int64), torch.arange(1000) % 10, 10)
    assert float(covered.divergence) == pytest.approx(math.log(10))
