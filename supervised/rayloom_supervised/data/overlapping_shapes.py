"""Pictures of shapes that cover each other in part, with the box and the visible pixels of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from annotated_types import Ge, Le

from rayloom.contract import TensorSpec, component
from rayloom.datasets import Dataset
from rayloom_supervised.data.ragged import SizeConfig

SIDE = 64
"""Pixels of a picture's side."""
MOST = 4
"""Shapes in one picture at most."""
SHAPES = ("(none)", "circle", "square", "triangle")
_TRIES = 200
_VISIBLE = 0.5


@dataclass(frozen=True, kw_only=True)
class OverlappingShapesConfig(SizeConfig):
    """Generated pictures of one to four shapes; of each at least half stays visible."""

    noise: Annotated[float, Ge(0), Le(100)] = 8.0
    """Standard deviation of the noise on every pixel, of 255."""


def _shape(name: str, centre: npt.NDArray[np.float64], radius: float) -> npt.NDArray[np.bool_]:
    """Return which pixels [SIDE, SIDE] a shape covers; it fits into a square of 2 * radius."""
    down, right = np.mgrid[:SIDE, :SIDE]
    x, y = right - centre[0], down - centre[1]
    if name == "circle":
        return np.asarray(np.hypot(x, y) <= radius)
    inside = np.maximum(abs(x), abs(y)) <= radius
    if name == "triangle":
        inside &= abs(x) <= (y + radius) / 2
    return np.asarray(inside)


def _box(mask: npt.NDArray[np.bool_]) -> list[int]:
    """Return left, top, right and bottom (excluded) of the pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


def draw(
    count: int, noise: float, chance: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], list[int], list[npt.NDArray[np.bool_]]]:
    """Return a picture [3, SIDE, SIDE] of at most `count` shapes, their classes, and which pixels of each one sees."""
    picture = np.full((3, SIDE, SIDE), chance.uniform(20, 80))
    classes: list[int] = []
    masks: list[npt.NDArray[np.bool_]] = []
    areas: list[int] = []
    for _ in range(_TRIES):
        if len(masks) == count:
            break
        radius, kind = chance.uniform(7, 14), int(chance.integers(1, len(SHAPES)))
        mask = _shape(SHAPES[kind], chance.uniform(radius, SIDE - 1 - radius, 2), radius)
        left = [seen & ~mask for seen in masks]
        if any(seen.sum() < _VISIBLE * area for seen, area in zip(left, areas, strict=True)):
            continue
        picture[:, mask] = chance.uniform(100, 250, (3, 1)) * [[chance.uniform(0.9, 1.0)]]
        masks, classes, areas = [*left, mask], [*classes, kind], [*areas, int(mask.sum())]
    noisy = picture + noise * chance.normal(size=picture.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8), classes, masks


@component("data set", OverlappingShapesConfig)
def overlapping_shapes(config: OverlappingShapesConfig, seed: int) -> Dataset:
    """Return `image` uint8 [3, 64, 64], `label` [4] (0: none), `box` float32 [4, 4] (left, top, right, bottom) and
    `mask` uint8 [4, 64, 64], 1 where one sees the shape; what is there stands first."""
    chance = np.random.default_rng(seed)
    image = np.zeros((config.total, 3, SIDE, SIDE), np.uint8)
    label = np.zeros((config.total, MOST), np.int64)
    box = np.zeros((config.total, MOST, 4), np.float32)
    mask = np.zeros((config.total, MOST, SIDE, SIDE), np.uint8)
    for row in range(config.total):
        image[row], classes, masks = draw(int(chance.integers(1, MOST + 1)), config.noise, chance)
        label[row, : len(classes)] = classes
        mask[row, : len(masks)] = masks
        box[row, : len(masks)] = [_box(seen) for seen in masks]
    columns: dict[str, npt.NDArray[Any]] = {"image": image, "label": label, "box": box, "mask": mask}
    elements = 3 * SIDE * SIDE
    spec = {
        "image": TensorSpec(shape=(3, SIDE, SIDE), dtype=torch.uint8, low=(0.0,) * elements, high=(255.0,) * elements),
        "label": TensorSpec(shape=(MOST,), dtype=torch.int64, num_values=(len(SHAPES),) * MOST, labels=SHAPES),
        "box": TensorSpec(shape=(MOST, 4), dtype=torch.float32),
        "mask": TensorSpec(shape=(MOST, SIDE, SIDE), dtype=torch.uint8),
    }
    cuts = np.split(np.arange(config.total), [config.train_size, config.train_size + config.validation_size])
    splits = [{name: torch.from_numpy(values[rows]) for name, values in columns.items()} for rows in cuts]
    return Dataset(splits[0], splits[1], splits[2], spec, "overlapping-shapes")
