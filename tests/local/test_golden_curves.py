"""Small runs of every chapter learn as they did when their curves were recorded.

The tolerances survive another CPU. `python tests/local/golden/record.py` records them anew; its text says when it may.
"""

from __future__ import annotations

import pytest

from golden_curves import FIRST, FOLDER, LATER, NAMES, recorded, run_curve

ROUNDING = {"rel": 1e-4, "abs": 1e-5}
ROUGHLY = {"rel": 0.2, "abs": 0.05}
LAST_OF_CHAOS = {"wgan_gp": (2, 5)}
"""Runs in which rounding grows a hundredfold within two updates (Adam without momentum, two players): the last updates
that must be where they were, and roughly so, on the processors of two makers."""


def test_every_golden_run_is_recorded() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.json")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_curve_is_where_it_was(name: str) -> None:
    golden, found = recorded(name), run_curve(name)
    assert found.keys() == golden.keys()
    exact, rough = LAST_OF_CHAOS.get(name, (FIRST[-1], LATER[-1]))
    for metric, points in golden.items():
        assert found[metric].keys() == points.keys()
        for at, value in points.items():
            if int(at) > rough:
                continue
            tolerance = ROUNDING if int(at) <= exact else ROUGHLY
            assert found[metric][at] == pytest.approx(value, **tolerance), f"{metric} at update {at}"
