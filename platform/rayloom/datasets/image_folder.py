"""Images in folders, one folder for each class, decoded by Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt
from torch import Tensor

from rayloom.components import component
from rayloom.contract import Batch
from rayloom.datasets.dataset import Dataset, image_spec
from rayloom.datasets.digests import combined_digest, files_digest
from rayloom.datasets.folders import ClassFiles, find_classes
from rayloom.datasets.splits import SplitConfig, complete_splits, split_tables
from rayloom.datasets.tables import RowTable, TensorTable
from rayloom.errors import UserError

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True, kw_only=True)
class ImageFolderConfig(SplitConfig):
    """Your images, a folder for each class (or train, validation and test above those)."""

    path: str
    """Folder with one folder for each class, or with the folders train, validation and test that hold such folders."""
    size: Annotated[int, Gt(0)] | tuple[Annotated[int, Gt(0)], Annotated[int, Gt(0)]] | None = None
    """Scale all images to this side, or (height, width) (unit: pixels); null: they are of one size already."""
    mode: Literal["rgb", "gray"] = "rgb"
    """Three channels or one."""
    memory_mib: Annotated[float, Ge(0)] = 1024.0
    """Images of more than this, decoded, are read from their files each time (unit: MiB)."""


class ImageTable(RowTable):
    """Images that are decoded when they are asked for: `image` uint8 [C, H, W] and `label`."""

    def __init__(self, paths: Sequence[Path], labels: Tensor, size: tuple[int, int], mode: Literal["rgb", "gray"]):
        self._paths = list(paths)
        self._labels = labels
        self._size = size
        self._mode = mode

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._paths)

    def rows(self, indices: Tensor) -> Batch:
        """Decode images; UserError names a file that cannot be read."""
        images = [decode_image(self._paths[index], self._size, self._mode) for index in indices.tolist()]
        return {"image": torch.stack(images), "label": self._labels[indices]}


@component("data set", ImageFolderConfig)
def load_image_folder(config: ImageFolderConfig, seed: int) -> Dataset:
    """Return labelled images uint8 [C, H, W], in the order of their paths; the classes are those of `train`.

    UserError for images of several sizes where none is asked for, for files that are no images and empty classes.
    """
    files = find_classes(Path(config.path), _SUFFIXES, "images")
    size = _common_size(files.paths) if config.size is None else _pair(config.size)
    labels = torch.from_numpy(files.labels)
    channels = 3 if config.mode == "rgb" else 1
    table: RowTable = ImageTable(files.paths, labels, size, config.mode)
    if len(files.paths) * channels * size[0] * size[1] <= config.memory_mib * 2**20:
        table = TensorTable(table.rows(torch.arange(len(table))))
    tables = split_tables(table, complete_splits(files.rows, config, files.labels))
    digest = combined_digest(files_digest(_named(files)), size, config.mode, *_cut_of(config))
    spec = image_spec((channels, *size), files.classes)
    return Dataset(tables["train"], tables["validation"], tables["test"], spec, Path(config.path).name, digest)


def _cut_of(config: Any) -> tuple[Any, ...]:
    return config.validation, config.test, config.split_seed


def _named(files: ClassFiles) -> list[tuple[str, Path]]:
    return [(path.relative_to(files.root).as_posix(), path) for path in files.paths]


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _common_size(paths: Sequence[Path]) -> tuple[int, int]:
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
