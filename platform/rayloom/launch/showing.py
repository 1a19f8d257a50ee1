"""Pictures of what a trained run can do: samples of a generative model, frames of an agent's episode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from rayloom.contract import Figure
from rayloom.errors import UserError
from rayloom.tracking.figure_store import figure_parts


def sample_picture(figure: Figure, destination: Path) -> Path:
    """Draw samples into an image file."""
    from rayloom.tracking.pictures import draw

    try:
        draw(*figure_parts(figure), destination)
        return destination
    except (OSError, ValueError) as error:
        raise UserError(f"the picture {destination} cannot be written ({error}); choose another file") from None


def frames_picture(frames: list[np.ndarray[Any, Any]], count: int, destination: Path) -> Path:
    """Draw `count` of the frames [H, W, 3], or all of them into a .gif."""
    whole = destination.suffix == ".gif"
    chosen = (
        range(len(frames)) if whole else np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)
    )
    images = torch.from_numpy(np.stack([frames[i] for i in chosen])).permute(0, 3, 1, 2) / 255.0
    figure = Figure("animation", images, frames_per_second=50.0) if whole else Figure("images", images)
    return sample_picture(figure, destination)
