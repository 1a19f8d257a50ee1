"""Pictures of what a trained run can do: samples of a generative model, frames of an agent's episode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from rayloom.contract import Figure
from rayloom.errors import UserError
from rayloom.tracking.figure_store import figure_parts

PICTURES = (".png", ".gif", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
ANIMATIONS = (".gif", ".webp")
EPISODES = (*PICTURES, ".mp4")
_FRAMES_PER_SECOND = 50.0


def check_suffix(destination: Path, suffixes: tuple[str, ...]) -> None:
    """Refuse (UserError) a file of a kind that cannot be written, before there is anything to write."""
    if destination.suffix.lower() not in suffixes:
        told = f"ends in {destination.suffix!r}" if destination.suffix else "has no ending"
        raise UserError(f"the picture {destination} {told}; choose another file, in one of {', '.join(suffixes)}")


def sample_picture(figure: Figure, destination: Path) -> Path:
    """Draw samples into an image file; a text is written into whatever file."""
    from rayloom.tracking.pictures import draw

    about, arrays = figure_parts(figure)
    if about["kind"] != "text":
        check_suffix(destination, ANIMATIONS if about["kind"] == "animation" else PICTURES)
    try:
        draw(about, arrays, destination)
        return destination
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"the picture {destination} cannot be written ({error}); choose another file") from None


def frames_picture(frames: list[np.ndarray[Any, Any]], count: int, destination: Path) -> Path:
    """Draw `count` of the frames [H, W, 3], or show all of them in a .gif or .mp4."""
    if destination.suffix == ".mp4":
        return _video(frames, destination)
    whole = destination.suffix == ".gif"
    chosen = (
        range(len(frames)) if whole else np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)
    )
    images = torch.from_numpy(np.stack([frames[i] for i in chosen])).permute(0, 3, 1, 2) / 255.0
    figure = Figure("animation", images, frames_per_second=_FRAMES_PER_SECOND) if whole else Figure("images", images)
    return sample_picture(figure, destination)


def _video(frames: list[np.ndarray[Any, Any]], destination: Path) -> Path:
    """Write frames as H.264, which needs sides of even length: an odd one gets a black line."""
    try:
        import imageio_ffmpeg
    except ImportError:
        raise UserError("a video needs imageio-ffmpeg: pip install 'rayloom[video]'; a .gif does not") from None
    height, width = frames[0].shape[:2]
    margin = ((0, height % 2), (0, width % 2), (0, 0))
    size = (width + width % 2, height + height % 2)
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        writer = imageio_ffmpeg.write_frames(str(destination), size, fps=_FRAMES_PER_SECOND, macro_block_size=1)
        writer.send(None)
        for frame in frames:
            writer.send(np.ascontiguousarray(np.pad(frame, margin)))
        writer.close()
    except OSError as error:
        raise UserError(f"the video {destination} cannot be written ({error}); choose another file") from None
    return destination
