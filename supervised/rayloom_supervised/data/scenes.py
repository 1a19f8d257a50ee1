"""Pictures of two shapes, and a sentence that says what is where: "a red circle above a blue square"."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
from annotated_types import Ge, Le
from torch import Tensor

from rayloom.contract import TensorSpec, component
from rayloom.datasets import Dataset
from rayloom_supervised.data.ragged import SizeConfig, ragged_dataset
from rayloom_supervised.data.symbols import END, SYMBOLS

COLOURS = {
    "red": (220, 50, 40),
    "green": (50, 170, 70),
    "blue": (50, 80, 220),
    "yellow": (230, 210, 50),
    "white": (235, 235, 235),
    "purple": (150, 60, 190),
}
SHAPES = ("circle", "square", "triangle", "cross")
RELATIONS = {"above": (0, -1), "below": (0, 1), "left of": (-1, 0), "right of": (1, 0)}
"""Where the first shape lies as seen from the second one: to the right and downwards."""
SIDE = 36
"""Pixels of a picture's side."""
WORDS = (*SYMBOLS, "a", *COLOURS, *SHAPES, "above", "below", "left", "right", "of")
_NUMBERS = {word: number for number, word in enumerate(WORDS)}
Scene = tuple[str, str, str, str, str]
"""Colour and shape of the first, relation, colour and shape of the second."""
SCENES: tuple[Scene, ...] = tuple(
    (*first, relation, *second)
    for first, relation, second in itertools.product(
        itertools.product(COLOURS, SHAPES), RELATIONS, itertools.product(COLOURS, SHAPES)
    )
    if first != second
)
"""All 2208 that there are."""


@dataclass(frozen=True, kw_only=True)
class ScenesConfig(SizeConfig):
    """Generated pictures of a large and a small coloured shape; the sentence names the large one first.

    Of the 2208 sentences 70 % are for training, 15 % for development and 15 % for the test: none is in two splits.
    """

    noise: Annotated[float, Ge(0), Le(100)] = 8.0
    """Standard deviation of the noise on every pixel, of 255."""


def sentence(scene: Scene) -> tuple[list[str], list[int]]:
    """Return the words, and which shape each is about: 1, 2, or 0 for none."""
    colour, shape, relation, other_colour, other_shape = scene
    between = [*relation.split(), "a"]
    words = ["a", colour, shape, *between, other_colour, other_shape]
    return words, [0, 1, 1, *[0] * len(between), 2, 2]


def _mask(shape: str, centre: npt.NDArray[np.float64], radius: float) -> npt.NDArray[np.bool_]:
    """Return which pixels [SIDE, SIDE] of a picture a shape covers; it fits into a square of 2 * radius."""
    down, right = np.mgrid[:SIDE, :SIDE]
    x, y = right - centre[0], down - centre[1]
    inside = np.maximum(abs(x), abs(y)) <= radius
    if shape == "circle":
        inside = np.hypot(x, y) <= radius
    elif shape == "triangle":
        inside &= abs(x) <= (y + radius) / 2
    elif shape == "cross":
        inside &= np.minimum(abs(x), abs(y)) <= radius / 3
    return np.asarray(inside, dtype=np.bool_)


def draw(scene: Scene, noise: float, chance: np.random.Generator) -> tuple[npt.NDArray[np.uint8], list[list[int]]]:
    """Return a picture [3, SIDE, SIDE] of a scene, and the box of each shape: left, top, right, bottom (excluded).

    Along the direction of the relation the centres are 14 to 17 pixels apart, across it at most 5.
    """
    radii = chance.uniform(6, 7.5), chance.uniform(3.5, 4.5)
    direction = np.array(RELATIONS[scene[2]], float)
    apart = direction * chance.uniform(14, 17) + direction[::-1] * chance.uniform(-5, 5)
    # Both shapes stay inside the picture.
    low = np.maximum(radii[0], radii[1] + apart)
    high = SIDE - 1 - np.maximum(radii[0], radii[1] - apart)
    first = chance.uniform(low, high)
    picture = np.full((3, SIDE, SIDE), chance.uniform(20, 70))
    boxes = []
    for (colour, shape), centre, radius in zip((scene[:2], scene[3:]), (first, first - apart), radii, strict=True):
        mask = _mask(shape, centre, radius)
        picture[:, mask] = np.array(COLOURS[colour])[:, None] * chance.uniform(0.85, 1.05)
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        boxes.append([int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1])
    noisy = picture + noise * chance.normal(size=picture.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8), boxes


@component("data set", ScenesConfig)
def scenes(config: ScenesConfig, seed: int) -> Dataset:
    """Return `image` uint8 [3, 36, 36], `boxes` [2, 4]; ragged `target` [T] (ends with END) and `about` [T]."""
    order = np.random.RandomState(0).permutation(len(SCENES))
    cuts = np.split(order, [round(0.7 * len(order)), round(0.85 * len(order))])
    chance = np.random.default_rng(seed)
    images, boxes = [], []
    rows: dict[str, list[Tensor]] = {"target": [], "about": []}
    for members, count in zip(cuts, (config.train_size, config.validation_size, config.test_size), strict=True):
        for number in chance.choice(members, size=count):
            picture, places = draw(SCENES[number], config.noise, chance)
            words, about = sentence(SCENES[number])
            images.append(torch.from_numpy(picture))
            boxes.append(places)
            rows["target"].append(torch.tensor([*(_NUMBERS[word] for word in words), END]))
            rows["about"].append(torch.tensor([*about, 0]))
    elements = 3 * SIDE * SIDE
    image = TensorSpec(shape=(3, SIDE, SIDE), dtype=torch.uint8, low=(0.0,) * elements, high=(255.0,) * elements)
    columns = {
        "image": (torch.stack(images), image),
        "boxes": (torch.tensor(boxes), TensorSpec(shape=(2, 4), dtype=torch.int64)),
    }
    return ragged_dataset("scenes", config, rows, {"target": WORDS}, columns)
