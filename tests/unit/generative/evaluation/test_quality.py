"""Coverage of known modes, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from rayloom import datasets
from rayloom_generative.evaluation.known_modes import known_modes
from rayloom_generative.evaluation.mode_quality import mode_quality

MODES = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])


def test_by_hand() -> None:
    points = torch.tensor([[0.0, 3.9], [0.0, 0.0], [0.0, 0.1], [10.0, -3.9], [5.0, 5.0], [10.0, 5.9]])
    quality = mode_quality(points, MODES, deviation=1.0)
    assert float(quality.good_fraction) == pytest.approx(4 / 6)
    assert float(quality.modes_covered) == 2
    # 3/4 of the good samples at one mode and 1/4 at another, against 1/4 each.
    assert float(quality.mode_divergence) == pytest.approx(0.75 * math.log(3))
    assert float(mode_quality(points, MODES, deviation=1.0, within=3.0).good_fraction) == pytest.approx(2 / 6)


def test_extremes() -> None:
    perfect = mode_quality(MODES, MODES, deviation=0.1)
    assert [float(v) for v in perfect] == pytest.approx([1.0, 4.0, 0.0], abs=1e-6)
    lost = mode_quality(MODES + 5, MODES, deviation=0.1)
    assert [float(v) for v in lost] == pytest.approx([0.0, 0.0, math.log(4)])


@pytest.mark.parametrize(("name", "count"), [("gaussian-grid", 25), ("gaussian-ring", 8)])
def test_real_data_are_perfect(name: str, count: int) -> None:
    modes, deviation = known_modes(name)
    assert modes is not None
    points = datasets.load({"kind": name, "train_size": 10_000}, 0).train["point"]
    quality = mode_quality(points, modes, deviation)
    # P(|x| < 4 deviations) = 1 - exp(-8) in the plane.
    assert float(quality.good_fraction) == pytest.approx(1 - math.exp(-8), abs=7e-4)
    assert float(quality.modes_covered) == count
    assert float(quality.mode_divergence) < 5e-3
    assert float(mode_quality(points, modes, deviation, within=1.0).good_fraction) == pytest.approx(
        1 - math.exp(-0.5), abs=0.02
    )
