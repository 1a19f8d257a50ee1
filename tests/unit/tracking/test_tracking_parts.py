"""Pictures and provenance, each alone."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from rayloom.tracking.pictures import draw_curves, image_grid, main_curves


def test_the_grid_places_images_row_by_row() -> None:
    images = np.stack([np.full((1, 64, 64), value, np.uint8) for value in (10, 20, 30)])
    grid = image_grid(images, columns=2)
    assert grid.shape == (2 * 65 + 1, 2 * 65 + 1, 3)
    assert [int(grid[33, 33, c]) for c in range(3)] == [10, 10, 10]
    assert int(grid[33, 98, 0]) == 20 and int(grid[98, 33, 0]) == 30
    assert int(grid[98, 98, 0]) == 128 and int(grid[0, 0, 0]) == 128 and int(grid[65, 33, 0]) == 128


def test_the_grid_keeps_colours_and_enlarges_small_images() -> None:
    image = np.zeros((1, 3, 16, 8), np.uint8)
    image[0, 1] = 200
    grid = image_grid(image, columns=8)
    assert grid.shape == (4 * 18, 4 * 10, 3)
    assert grid[8, 8].tolist() == [0, 200, 0]


def test_curves_show_the_main_metrics_only(tmp_path: Path) -> None:
    points = [(0, "train/loss", 1.0), (5, "train/loss", math.inf), (5, "evaluate/accuracy", 0.5), (5, "time/x", 1.0)]
    curves = main_curves(points)
    assert list(curves) == ["train/loss", "evaluate/accuracy"]
    assert curves["train/loss"][0] == (0, 1.0) and math.isnan(curves["train/loss"][1][1])
    assert draw_curves(points, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert not draw_curves([(0, "time/x", 1.0)], tmp_path / "none.png") and not (tmp_path / "none.png").exists()
