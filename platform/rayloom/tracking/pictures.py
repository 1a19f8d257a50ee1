"""Draws figures and learning curves. Imported by processes that draw, never by the one that trains."""

from __future__ import annotations

import json
import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")

from matplotlib import image as matplotlib_image
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

_SMALLEST_TILE = 64
_MOST_CURVES = 12
_ANNOTATED_ROWS = 20
_BINS = 50
_WIDEST_CELL = 40
_WIDEST_CAPTION = 28
SUFFIXES = {"text": ".txt", "animation": ".gif"}
"""Endings of the files that are no PNG."""

Array = np.ndarray[Any, Any]
Arrays = Mapping[str, Array]


def picture_of(stored: Path) -> Path:
    """Return the file into which a stored figure is drawn."""
    return stored.with_suffix(SUFFIXES.get(read_figure(stored)[0]["kind"], ".png"))


def draw_stored(stored: Path) -> Path:
    """Draw a figure that `figure_store.store_figure` wrote, beside it, and return the picture."""
    about, arrays = read_figure(stored)
    target = stored.with_suffix(SUFFIXES.get(about["kind"], ".png"))
    aside = target.with_name(f".new-{os.getpid()}-{target.name}")
    draw(about, arrays, aside, title=f"{stored.parent.name}, step {int(stored.stem.removeprefix('step_'))}")
    os.replace(aside, target)
    return target


def read_figure(stored: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return what is plain about a stored figure, and its arrays."""
    with np.load(stored, allow_pickle=False) as file:
        arrays = dict(file.items())
    return json.loads(str(arrays.pop("about"))), arrays


def draw(about: Mapping[str, Any], arrays: Arrays, target: Path, *, title: str = "") -> None:
    """Draw a figure, as `figure_store.figure_parts` gives it, into a file of a kind that suits it."""
    kind = about["kind"]
    if kind == "text":
        target.write_text(about["text"], encoding="utf-8")
    elif kind == "animation":
        _animate(arrays["data"], about["frames_per_second"], target)
    elif kind == "images" and about["labels"]:
        _captioned(about, arrays["data"], title).savefig(target)
    elif kind == "images":
        matplotlib_image.imsave(target, image_grid(arrays["data"], about["columns"]))
    else:
        painters = {"matrix": _matrix, "table": _table, "points": _points, "curves": _curves, "histogram": _histogram}
        painters[kind](about, arrays, title).savefig(target)


def image_grid(images: Array, columns: int, most: int | None = None) -> Array:
    """Arrange bytes [M, C, H, W] row by row in a picture [rows * (H + 1) + 1, columns * (W + 1) + 1, 3].

    One grey pixel separates the tiles; small tiles are enlarged by a whole factor, as long as no side of the picture
    has more than `most` pixels.
    """
    count, channels, height, width = images.shape
    columns = max(1, min(columns, count))
    rows = math.ceil(count / columns)
    grid = np.full((rows * (height + 1) + 1, columns * (width + 1) + 1, 3), 128, dtype=np.uint8)
    for index in range(count):
        top, left = (index // columns) * (height + 1) + 1, (index % columns) * (width + 1) + 1
        tile = images[index].transpose(1, 2, 0)
        grid[top : top + height, left : left + width] = np.repeat(tile, 3, axis=2) if channels == 1 else tile
    return _enlarged(grid, height, width, most)


def _captioned(about: Mapping[str, Any], images: Array, title: str) -> Canvas:
    """Return bytes [M, C, H, W] as a grid with a caption of one or two lines over each tile."""
    columns = max(1, min(about["columns"], len(images)))
    rows = math.ceil(len(images) / columns)
    figure = Canvas(figsize=(1.5 * columns, 1.8 * rows + 0.4), layout="constrained")
    figure.suptitle(title, fontsize=9)
    tiles = figure.subplots(rows, columns, squeeze=False).ravel()
    for tile in tiles:
        tile.set_axis_off()
    for tile, image, label in zip(tiles, images, about["labels"], strict=False):
        shown = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
        tile.imshow(shown, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        lines = [textwrap.shorten(line, _WIDEST_CAPTION, placeholder="...") for line in label.split("\n")]
        tile.set_title("\n".join(lines), fontsize=7)
    return figure


def _enlarged(picture: Array, height: int, width: int, most: int | None = None) -> Array:
    factor = max(1, math.ceil(_SMALLEST_TILE / max(height, width)))
    if most is not None:
        factor = max(1, min(factor, most // max(picture.shape[:2])))
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def _animate(frames: Array, frames_per_second: float, target: Path) -> None:
    """Write bytes [T, C, H, W] as an animated GIF that repeats itself."""
    from PIL import Image

    height, width = frames.shape[2:]
    pictures = []
    for frame in frames:
        picture = _enlarged(frame.transpose(1, 2, 0), height, width)
        pictures.append(Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture))
    pause_ms = max(20, round(1000 / frames_per_second))  # browsers slow shorter ones down to a tenth of a second
    pictures[0].save(target, save_all=True, append_images=pictures[1:], duration=pause_ms, loop=0)


def _matrix(about: Mapping[str, Any], arrays: Arrays, title: str) -> Canvas:
    data = arrays["data"]
    rows, columns = data.shape
    size = [max(4.0, min(14.0, 0.45 * number + 2.0)) for number in (columns, rows)]
    figure = Canvas(figsize=(size[0], size[1]), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(data, cmap="Blues", aspect="equal" if 0.2 < rows / columns < 5 else "auto")
    figure.colorbar(shown, ax=axes, shrink=0.7)
    axes.set_title(title)
    if about["column_labels"]:
        axes.set_xticks(range(columns), about["column_labels"], rotation=90)
    if about["labels"]:
        axes.set_yticks(range(rows), about["labels"])
    if max(rows, columns) <= _ANNOTATED_ROWS:
        middle = (np.nanmax(data) + np.nanmin(data)) / 2
        for (row, column), value in np.ndenumerate(data):
            ink = "white" if value > middle else "black"
            axes.text(column, row, f"{value:.3g}", ha="center", va="center", color=ink, fontsize=7)
    return figure


def _table(about: Mapping[str, Any], arrays: Arrays, title: str) -> Canvas:
    data = arrays["data"]
    rows, columns = data.shape
    labels = [textwrap.shorten(label, _WIDEST_CELL, placeholder="...") for label in about["labels"]]
    width = 0.1 * max(map(len, labels), default=0) + 1.1 * columns
    figure = Canvas(figsize=(max(3.0, width), 0.3 * (rows + 2) + 0.4), layout="constrained")
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_title(title)
    cells = [[f"{value:.4g}" for value in row] for row in data]
    shown = axes.table(
        cells,
        rowLabels=labels or None,
        colLabels=about["column_labels"] or None,
        loc="upper center",
        edges="horizontal",
    )
    shown.auto_set_font_size(False)
    shown.set_fontsize(9)
    return figure


def _points(about: Mapping[str, Any], arrays: Arrays, title: str) -> Canvas:
    return points_panel(about, arrays, title)[0]


def points_panel(about: Mapping[str, Any], arrays: Arrays, title: str) -> tuple[Canvas, Axes]:
    """Draw points, in front of their reference where there is one, and return the axes too."""
    data, reference, groups = arrays["data"], arrays.get("reference"), arrays.get("groups")
    figure, axes = _panel(about, title, (6, 6))
    if reference is not None:
        axes.scatter(reference[:, 0], reference[:, 1], s=4, color="lightgrey", label="reference")
    if groups is None:
        axes.scatter(data[:, 0], data[:, 1], s=4, color="tab:blue", label="samples")
    else:
        colours = matplotlib.colormaps["tab20" if groups.max() >= 10 else "tab10"]
        for group in np.unique(groups):
            name = about["labels"][group] if about["labels"] else str(group)
            members = data[groups == group]
            axes.scatter(members[:, 0], members[:, 1], s=6, color=colours(int(group) % colours.N), label=name)
    axes.legend()
    return figure, axes


def _curves(about: Mapping[str, Any], arrays: Arrays, title: str) -> Canvas:
    data = arrays["data"]
    figure, axes = _panel(about, title, (7, 4.5))
    x = arrays.get("x", np.arange(data.shape[1]))
    for index, values in enumerate(data):
        marker = "." if len(values) < 30 else None
        axes.plot(x, values, marker=marker, label=about["labels"][index] if about["labels"] else None)
    return _with_legend(figure, axes, about)


def _histogram(about: Mapping[str, Any], arrays: Arrays, title: str) -> Canvas:
    data = arrays["data"]
    figure, axes = _panel(about, title, (7, 4.5))
    finite = data[np.isfinite(data)]
    edges = np.histogram_bin_edges(finite, bins=min(_BINS, max(5, data.shape[1] // 5))).tolist()
    for index, values in enumerate(data):
        label = about["labels"][index] if about["labels"] else None
        axes.hist(values[np.isfinite(values)], bins=edges, alpha=0.9 if len(data) == 1 else 0.55, label=label)
    return _with_legend(figure, axes, about)


def _panel(about: Mapping[str, Any], title: str, size: tuple[float, float]) -> tuple[Canvas, Axes]:
    figure = Canvas(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    axes.set_xlabel(about["axes"][0])
    axes.set_ylabel(about["axes"][1])
    axes.grid(alpha=0.3)
    return figure, axes


def _with_legend(figure: Canvas, axes: Axes, about: Mapping[str, Any]) -> Canvas:
    if about["labels"]:
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
