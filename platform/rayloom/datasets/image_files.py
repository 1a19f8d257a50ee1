"""Image files, decoded by Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from rayloom.errors import UserError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})
"""Names of image files end in one of these."""


def common_size(paths: Sequence[Path]) -> tuple[int, int]:
    """Return the height and width of all images, read from their headers."""
    first = _size_of(paths[0])
    for path in paths[1:]:
        found = _size_of(path)
        if found != first:
            raise UserError(
                f"source.dataset.size: {paths[0]} has {first[0]} x {first[1]} pixels and {path} {found[0]} x "
                f"{found[1]}: set the size to which all images are scaled, as {list(first)}"
            )
    return first


def _size_of(path: Path) -> tuple[int, int]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.height, image.width
    except OSError as error:
        raise _unreadable(path, error) from None


def decode_image(path: Path, size: tuple[int, int], mode: Literal["rgb", "gray"]) -> Tensor:
    """Return an image file as uint8 [C, H, W], scaled bilinearly to `size` (height, width) where it has another."""
    from PIL import Image

    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB" if mode == "rgb" else "L")
    except (OSError, SyntaxError) as error:  # SyntaxError: Pillow's word for a broken PNG
        raise _unreadable(path, error) from None
    if (image.height, image.width) != size:
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    pixels = np.array(image, dtype=np.uint8)
    return torch.from_numpy(pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} cannot be read as an image ({type(error).__name__}): replace or remove it")
