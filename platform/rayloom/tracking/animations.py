"""Draws how a figure changes over a run: one animated GIF of all its steps, for those with `Figure.animate`.

Imported by processes that draw, never by the one that trains. The frames are the figures that the run has stored, so
that the animation of a run that was killed and resumed is that of one that was not.
"""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image, ImageDraw, ImageFont

from rayloom.tracking.pictures import Array, Arrays, image_grid, points_panel, read_figure

ANIMATION = "over_steps.gif"
"""The file beside the pictures of a figure."""
_MOST_FRAMES = 40
_MOST_PIXELS = 480  # of a grid's longer side, beyond which its tiles are not enlarged
_LONG_MS, _SHORT_MS, _WHOLE_MS, _LAST_MS = 600, 100, 6000, 2000
_FONT_SIZE, _MARGIN = 14, 4
_DOTS_PER_INCH = 70

Stored = tuple[int, Mapping[str, Any], Arrays]
"""Step of a figure, what is plain about it, and its arrays."""


def draw_animations(run_dir: Path) -> list[Path]:
    """Draw the figures of a run folder that ask for it and have two steps or more; return the animations."""
    folders: dict[Path, list[tuple[int, Path]]] = {}
    for file in (run_dir / "figures").rglob("step_*.npz"):
        number = file.stem.removeprefix("step_")
        if number.isdecimal():  # others are not finished
            folders.setdefault(file.parent, []).append((int(number), file))
    drawn = []
    for folder in sorted(folders):
        steps = sorted(folders[folder])
        if len(steps) < 2 or not (newest := _of_one_kind(steps[-1:])) or not newest[0][1].get("animate"):
            continue
        spread = np.linspace(0, len(steps) - 1, min(_MOST_FRAMES, len(steps))).round().astype(int)
        frames = _of_one_kind([steps[index] for index in spread])
        if len(frames) >= 2:
            drawn.append(_draw(frames, folder))
    return drawn


def _of_one_kind(files: Sequence[tuple[int, Path]]) -> list[Stored]:
    """Read figures, and keep those of the last one's kind and shape; damaged ones are reported and left out."""
    found: list[Stored] = []
    for step, file in files:
        try:
            about, arrays = read_figure(file)
            found.append((step, about, arrays))
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            print(f"{file} cannot be drawn: {type(error).__name__}: {error}", file=sys.stderr)

    def form(stored: Stored) -> tuple[str, tuple[int, ...]]:
        kind, data = stored[1]["kind"], stored[2].get("data")
        shape = () if data is None else data.shape  # a text has none
        return kind, shape[1:] if kind == "points" else shape

    return [stored for stored in found if form(stored) == form(found[-1])]


def _draw(frames: Sequence[Stored], folder: Path) -> Path:
    painted = _grids(frames) if frames[0][1]["kind"] == "images" else _panels(frames, folder.name)
    pictures = [Image.fromarray(picture) for picture in painted]
    each = min(_LONG_MS, max(_SHORT_MS, _WHOLE_MS // len(pictures)))
    aside, target = folder / f".new-{os.getpid()}-{ANIMATION}", folder / ANIMATION
    durations = [*[each] * (len(pictures) - 1), _LAST_MS]
    pictures[0].save(aside, save_all=True, append_images=pictures[1:], duration=durations, loop=0)
    os.replace(aside, target)
    return target


def _grids(frames: Sequence[Stored]) -> list[Array]:
    """Return grids of images with their step below, [H, W, 3] each."""
    font = ImageFont.load_default(_FONT_SIZE)
    height = _FONT_SIZE + 2 * _MARGIN
    found = []
    for step, about, arrays in frames:
        grid = Image.fromarray(image_grid(arrays["data"], about["columns"], _MOST_PIXELS))
        text = f"step {step:,}"
        # As wide as the longest text, so that all frames have one size.
        width = max(grid.width, 2 * _MARGIN + round(font.getlength(f"step {frames[-1][0]:,}")))
        canvas = Image.new("RGB", (width, grid.height + height), "white")
        canvas.paste(grid, (0, 0))
        ImageDraw.Draw(canvas).text((_MARGIN, grid.height + _MARGIN // 2), text, fill="black", font=font)
        found.append(np.asarray(canvas))
    return found


def _panels(frames: Sequence[Stored], name: str) -> list[Array]:
    """Return points with their step above and one pair of axes for all, [H, W, 3] each."""
    # Where there is a reference it says what matters: samples that fly away at the start would hide the rest.
    shown = [arrays.get("reference", arrays["data"]) for _, _, arrays in frames]
    together = np.concatenate([points[np.isfinite(points).all(1)] for points in shown])
    low, high = (together.min(0), together.max(0)) if len(together) else (np.zeros(2), np.ones(2))
    margin = 0.15 * np.maximum(high - low, 1e-3)
    found = []
    for step, about, arrays in frames:
        panel, axes = points_panel(about, arrays, f"{name}, step {step:,}")
        axes.set_xlim(low[0] - margin[0], high[0] + margin[0])
        axes.set_ylim(low[1] - margin[1], high[1] + margin[1])
        axes.legend(loc="upper right")  # the best place would be another one in each frame
        panel.set_dpi(_DOTS_PER_INCH)
        canvas = FigureCanvasAgg(panel)
        canvas.draw()
        found.append(np.asarray(canvas.buffer_rgba())[:, :, :3].copy())
    return found
