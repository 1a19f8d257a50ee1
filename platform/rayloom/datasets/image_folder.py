"""Images in folders, one folder for each class, decoded by Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from rayloom.components import component
from rayloom.contract import Batch
from rayloom.datasets.dataset import Dataset, image_spec
from rayloom.datasets.digests import combined_digest, files_digest
from rayloom.datasets.folders import ClassFiles, find_classes
from rayloom.datasets.image_files import IMAGE_SUFFIXES, common_size, decode_image
from rayloom.datasets.splits import SplitConfig, complete_splits, split_tables
from rayloom.datasets.tables import RowTable, TensorTable


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
    files = find_classes(Path(config.path), IMAGE_SUFFIXES, "images")
    size = common_size(files.paths) if config.size is None else _pair(config.size)
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
