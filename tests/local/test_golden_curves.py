"""Small runs of every chapter learn as they did when their curves were recorded.

The tolerances survive another CPU. `python tests/local/golden/record.py` records them anew; its text says when it may.
"""

from __future__ import annotations

import pytest

from golden_curves import FIRST, FOLDER, NAMES, recorded, run_curve

ROUNDING = {"rel": 1e-4, "abs": 1e-5}
ROUGHLY = {"rel": 0.2, "abs": 0.05}


def test_every_golden_run_is_recorded() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.json")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_curve_is_where_it_was(name: str) -> None:
    golden, found = recorded(name), run_curve(name)
    assert found.keys() == golden.keys()
    for metric, points in golden.items():
        assert found[metric].keys() == points.keys()
        for at, value in points.items():
            tolerance = ROUNDING if int(at) in FIRST else ROUGHLY
            assert found[metric][at] == pytest.approx(value, **tolerance), f"{metric} at update {at}"
