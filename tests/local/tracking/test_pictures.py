"""Every kind of figure, stored and drawn: what the pictures hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib import image as matplotlib_image
from PIL import Image

from figure_cases import figures
from rayloom.tracking.drawing import draw_new
from rayloom.tracking.figure_store import store_figure
from rayloom.tracking.pictures import draw_stored, picture_of

FIGURES = figures()


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_drawn_beside_its_data(name: str, tmp_path: Path) -> None:
    stored = tmp_path / "figures" / name / "step_000000007.npz"
    store_figure(stored, FIGURES[name])
    target = picture_of(stored)
    (drawn,) = draw_new(tmp_path)
    assert drawn == target and draw_new(tmp_path) == []
    assert [path.name for path in sorted(stored.parent.iterdir())] == sorted([stored.name, target.name])
    if name == "text":
        assert target.read_text(encoding="utf-8") == FIGURES[name].text
    elif name == "animation":
        with Image.open(target) as picture:
            assert (picture.n_frames, picture.info["duration"], picture.info["loop"]) == (9, 100, 0)
            assert picture.size == (72, 72), "small pictures are enlarged"
    else:
        pixels = matplotlib_image.imread(target)
        assert pixels.shape[0] >= 100 and len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 20


def test_groups_of_points_have_colours_of_their_own(tmp_path: Path) -> None:
    stored = tmp_path / "points" / "step_1.npz"
    store_figure(stored, FIGURES["points"])
    pixels = (matplotlib_image.imread(draw_stored(stored))[:, :, :3] * 255).round().astype(int)
    colours = {tuple(pixel) for pixel in pixels.reshape(-1, 3).tolist()}
    assert {(31, 119, 180), (255, 127, 14), (44, 160, 44)} <= colours  # the first three of tab10


def test_one_broken_store_does_not_stop_the_others(tmp_path: Path) -> None:
    for name in ("matrix", "table"):
        store_figure(tmp_path / "figures" / name / "step_1.npz", FIGURES[name])
    (tmp_path / "figures" / "matrix" / "step_1.npz").write_bytes(b"PK no archive")
    assert [path.parent.name for path in draw_new(tmp_path)] == ["table"]
