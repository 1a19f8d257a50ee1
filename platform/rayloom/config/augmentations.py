"""Settings of the augmentations of images; `rayloom.sources.augmentation` applies them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le

from rayloom.components import Kinds, Shipped


@dataclass(frozen=True, kw_only=True)
class ShiftConfig:
    """Move each image by up to some pixels in both directions; what comes in is 0. Also called random cropping."""

    pixels: Annotated[int, Ge(1)] = 2
    """Largest distance (unit: pixels)."""


@dataclass(frozen=True, kw_only=True)
class FlipConfig:
    """Mirror some images left to right."""

    probability: Annotated[float, Ge(0), Le(1)] = 0.5
    """Share of the images."""


@dataclass(frozen=True, kw_only=True)
class CutoutConfig:
    """Black out a square of each image, part of which may lie outside (DeVries and Taylor 2017)."""

    size: Annotated[int, Ge(1)] = 8
    """Side of the square (unit: pixels)."""


@dataclass(frozen=True, kw_only=True)
class BrightnessConfig:
    """Multiply each image by a random factor around 1."""

    amount: Annotated[float, Gt(0), Le(1)] = 0.2
    """Largest departure of the factor from 1."""


_MODULE = "rayloom.sources.augmentation"
AUGMENTATIONS = Kinds(
    "augmentation",
    {
        "shift": Shipped(f"{_MODULE}:shift", ShiftConfig),
        "flip": Shipped(f"{_MODULE}:flip", FlipConfig),
        "cutout": Shipped(f"{_MODULE}:cutout", CutoutConfig),
        "brightness": Shipped(f"{_MODULE}:brightness", BrightnessConfig),
    },
    own="a function of (config, images, draws) that returns images, marked @component('augmentation', Config)",
)
"""What is done to the images of a batch, on the learner's device, anew in every epoch."""
