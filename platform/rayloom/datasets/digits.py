"""The handwritten digits that scikit-learn ships: the data set that is always there."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from rayloom.components import component
from rayloom.datasets.dataset import Dataset, image_spec
from rayloom.datasets.tables import Columns
from rayloom.errors import UserError

_HELD_OUT_PER_CLASS = 30


@dataclass(frozen=True, kw_only=True)
class DigitsConfig:
    """1,797 handwritten digits 8x8, shipped with scikit-learn."""


def read_digits() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return the raw images [1797, 8, 8] in 0..16 and the labels [1797], in the file's order.

    Reads the file itself: importing scikit-learn would take a second of every start.
    """
    package = importlib.util.find_spec("sklearn")
    folders = package.submodule_search_locations if package else None
    path = Path(next(iter(folders))) / "datasets" / "data" / "digits.csv.gz" if folders else None
    if path is None or not path.is_file():
        raise UserError("the digits come with scikit-learn: run `pip install scikit-learn`")
    table = np.loadtxt(path, delimiter=",", dtype=np.int64)
    return table[:, :-1].reshape(-1, 8, 8).astype(np.uint8), table[:, -1]


@component("data set", DigitsConfig)
def load_digits(config: DigitsConfig, seed: int) -> Dataset:
    """Return 1,197 training, 300 validation and 300 test images uint8 [1, 8, 8], scaled from 0..16 to 0..255.

    Each held-out split has 30 images of each class; the cut is the same for every seed.
    """
    pixels, labels = read_digits()
    images = ((pixels.astype(np.int64) * 255 + 8) // 16).astype(np.uint8)[:, None]
    # The stream of RandomState is frozen across versions of NumPy.
    order = np.random.RandomState(0).permutation(len(labels))
    rows: dict[str, list[npt.NDArray[np.int64]]] = {"train": [], "validation": [], "test": []}
    for digit in range(10):
        members = order[labels[order] == digit]
        rows["test"].append(members[:_HELD_OUT_PER_CLASS])
        rows["validation"].append(members[_HELD_OUT_PER_CLASS : 2 * _HELD_OUT_PER_CLASS])
        rows["train"].append(members[2 * _HELD_OUT_PER_CLASS :])

    def take(name: str) -> Columns:
        chosen = np.sort(np.concatenate(rows[name]))
        return {"image": torch.from_numpy(images[chosen]), "label": torch.from_numpy(labels[chosen])}

    names = tuple(str(digit) for digit in range(10))
    return Dataset(take("train"), take("validation"), take("test"), image_spec((1, 8, 8), names), "digits")
