"""Folders as classes: which files belong to which class and, where the folders say so, to which split."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rayloom.config.import_path import suggest
from rayloom.datasets.splits import SPLITS, Rows
from rayloom.errors import UserError


@dataclass(frozen=True)
class ClassFiles:
    """The files of all splits, in the order of their paths."""

    root: Path
    paths: tuple[Path, ...]
    labels: Rows
    """Class of each file."""
    classes: tuple[str, ...]
    """Names of the folders that are classes, sorted."""
    rows: dict[str, Rows]
    """Numbers of the files of each split; without folders for splits all are `train`."""


def existing_folder(path: Path) -> Path:
    """Return the folder; UserError with the nearest name where there is none."""
    if path.is_dir():
        return path
    beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    raise UserError(f"source.dataset.path: there is no folder {path}{suggest(path.name, beside)}")


def split_folders(root: Path) -> dict[str, Path]:
    """Return the folders of the splits; `root` itself is `train` where it is not divided into them."""
    folders = {name: root / name for name in SPLITS if (root / name).is_dir()}
    return folders if "train" in folders else {"train": root}


def find_classes(root: Path, suffixes: Collection[str], what: str) -> ClassFiles:
    """Return the files with one of the suffixes; UserError for classes without any, or that `train` does not have."""
    folders = split_folders(existing_folder(root))
    classes = _subfolders(folders["train"])
    if not classes:
        raise UserError(f"source.dataset.path: {folders['train']} has no folders: make one for each class")
    paths: list[Path] = []
    labels: list[int] = []
    rows: dict[str, Rows] = {}
    for split, folder in folders.items():
        unknown = [name for name in _subfolders(folder) if name not in classes]
        if unknown:
            raise UserError(
                f"source.dataset.path: {folder / unknown[0]} is a class that {folders['train']} does not have"
                f"{suggest(unknown[0], classes)}"
            )
        start = len(paths)
        for number, name in enumerate(classes):
            found = _files(folder / name, suffixes)
            if not found and split == "train":
                raise UserError(f"source.dataset.path: {folder / name} has no {what}: fill or remove the folder")
            paths += found
            labels += [number] * len(found)
        rows[split] = np.arange(start, len(paths))
    return ClassFiles(root, tuple(paths), np.array(labels, dtype=np.int64), tuple(classes), rows)


def _subfolders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _files(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """Return the files below a folder with one of the suffixes, in any case, sorted by path."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
