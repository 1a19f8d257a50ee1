"""Draws figures and learning curves as PNG files, in the writer process."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")

from matplotlib import image as matplotlib_image
from matplotlib.figure import Figure as Canvas

from rayloom.tracking.journal import Record

_SMALLEST_TILE = 64
_MOST_CURVES = 12
_ANNOTATED_ROWS = 20

Array = np.ndarray[Any, Any]


def draw_figure(record: Record, run_dir: Path) -> Path:
    """Draw the figure of a journal record beside its data and return the PNG."""
    target = run_dir / f"{record['stem']}.png"
    with np.load(run_dir / f"{record['stem']}.npz", allow_pickle=False) as arrays:
        data = arrays["data"]
        reference = arrays.get("reference")
    title = f"{record['name']}, step {record['step']}"
    draw(record["draw"], data, reference, target, title=title, labels=record["labels"], columns=record["columns"])
    return target


def draw(
    kind: str,
    data: Array,
    reference: Array | None,
    target: Path,
    *,
    title: str = "",
    labels: Sequence[str] = (),
    columns: int = 8,
) -> None:
    """Draw images (bytes [M, C, H, W]), a matrix [R, C] or points [M, 2] into a PNG file."""
    if kind == "images":
        matplotlib_image.imsave(target, image_grid(data, columns))
    elif kind == "matrix":
        _matrix(data, labels, title).savefig(target)
    else:
        _points(data, reference, title).savefig(target)


def image_grid(images: Array, columns: int) -> Array:
    """Arrange bytes [M, C, H, W] row by row in a picture [rows * (H + 1) + 1, columns * (W + 1) + 1, 3].

    One grey pixel separates the tiles; small tiles are enlarged by a whole factor.
    """
    count, channels, height, width = images.shape
    columns = max(1, min(columns, count))
    rows = math.ceil(count / columns)
    grid = np.full((rows * (height + 1) + 1, columns * (width + 1) + 1, 3), 128, dtype=np.uint8)
    for index in range(count):
        top, left = (index // columns) * (height + 1) + 1, (index % columns) * (width + 1) + 1
        tile = images[index].transpose(1, 2, 0)
        grid[top : top + height, left : left + width] = np.repeat(tile, 3, axis=2) if channels == 1 else tile
    factor = max(1, math.ceil(_SMALLEST_TILE / max(height, width)))
    return grid.repeat(factor, axis=0).repeat(factor, axis=1)


def _matrix(data: Array, labels: Sequence[str], title: str) -> Canvas:
    rows, columns = data.shape
    side = max(4.0, min(14.0, 0.45 * max(rows, columns) + 2.0))
    figure = Canvas(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(data, cmap="Blues")
    figure.colorbar(shown, ax=axes, shrink=0.7)
    axes.set_title(title)
    if len(labels) == columns:
        axes.set_xticks(range(columns), labels, rotation=90)
    if len(labels) == rows:
        axes.set_yticks(range(rows), labels)
    if max(rows, columns) <= _ANNOTATED_ROWS:
        middle = (np.nanmax(data) + np.nanmin(data)) / 2
        for (row, column), value in np.ndenumerate(data):
            ink = "white" if value > middle else "black"
            axes.text(column, row, f"{value:.3g}", ha="center", va="center", color=ink, fontsize=7)
    return figure


def _points(data: Array, reference: Array | None, title: str) -> Canvas:
    figure = Canvas(figsize=(6, 6), layout="constrained")
    axes = figure.subplots()
    if reference is not None:
        axes.scatter(reference[:, 0], reference[:, 1], s=4, color="lightgrey", label="reference")
    axes.scatter(data[:, 0], data[:, 1], s=4, label="samples")
    axes.set_title(title)
    axes.legend()
    return figure


def main_curves(metrics: Sequence[tuple[int, str, float]]) -> dict[str, list[tuple[int, float]]]:
    """Return the points of the metrics that tell how training went: train/loss, train/return_mean, evaluate/*."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for step, key, value in metrics:
        if key in ("train/loss", "train/return_mean") or key.startswith("evaluate/"):
            curves.setdefault(key, []).append((step, value if math.isfinite(value) else math.nan))
    names = sorted(curves, key=lambda name: (not name.startswith("train/"), name))
    return {name: curves[name] for name in names[:_MOST_CURVES]}


def draw_curves(metrics: Sequence[tuple[int, str, float]], target: Path) -> bool:
    """Draw the main metrics (step, key, value) against the step; False when there is nothing to draw."""
    curves = main_curves(metrics)
    if not curves:
        return False
    columns = min(3, len(curves))
    rows = math.ceil(len(curves) / columns)
    figure = Canvas(figsize=(5 * columns, 3.2 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel, (name, points) in zip(panels, curves.items(), strict=False):
        panel.plot(*zip(*points, strict=True), marker="." if len(points) < 30 else None)
        panel.set_title(name)
        panel.set_xlabel("step")
        panel.grid(alpha=0.3)
    for panel in panels[len(curves) :]:
        panel.set_visible(False)
    figure.savefig(target)
    return True
