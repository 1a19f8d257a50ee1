"""Files without labels, read as a data set reads its own: what `rayloom predict` is given.

paths --reader of the data set--> rows with a name each --Algorithm.predictions--> a table
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from rayloom.contract import Batch, Spec, TensorSpec
from rayloom.datasets.image_files import IMAGE_SUFFIXES, decode_image
from rayloom.errors import UserError

_IMAGES_AT_ONCE = 256


@dataclass(frozen=True)
class UnlabelledRows:
    """Some examples, and where each is from."""

    files: tuple[str, ...]
    """Path of the file that each row is from."""
    places: tuple[int, ...]
    """Number of the row in its file, from 1."""
    fields: Batch
    """The inputs [B, ...] by field, in the data set's own range."""


Reader = Callable[[Sequence[Path]], Iterator[UnlabelledRows]]
"""Yields the rows of files in their order; UserError names a file that cannot be read."""


def image_reader(spec: Spec) -> Reader | None:
    """Return the reader of image files for data whose `image` is uint8 [C, H, W]; None for other data."""
    image = spec.get("image")
    if image is None or len(image.shape) != 3 or image.dtype != torch.uint8 or image.shape[0] not in (1, 3):
        return None
    return _Images(image)


class _Images:
    """Decodes image files and scales them to the size of the data's own."""

    def __init__(self, image: TensorSpec) -> None:
        channels, height, width = image.shape
        self._size = (height, width)
        self._mode: Literal["rgb", "gray"] = "rgb" if channels == 3 else "gray"

    def __call__(self, paths: Sequence[Path]) -> Iterator[UnlabelledRows]:
        files = [file for path in paths for file in within(path, IMAGE_SUFFIXES, "images")]
        for start in range(0, len(files), _IMAGES_AT_ONCE):
            part = files[start : start + _IMAGES_AT_ONCE]
            images = torch.stack([decode_image(path, self._size, self._mode) for path in part])
            yield UnlabelledRows(tuple(map(str, part)), (1,) * len(part), {"image": images})


def within(path: Path, suffixes: frozenset[str], what: str) -> list[Path]:
    """Return a file, or the files with these suffixes in a folder and below, in the order of their paths."""
    if not path.is_dir():
        if not path.exists():
            raise UserError(f"predict: there is no file {path}")
        return [path]
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in suffixes and file.is_file())
    if not found:
        raise UserError(f"predict: the folder {path} has no {what} ({', '.join(sorted(suffixes))})")
    return found
