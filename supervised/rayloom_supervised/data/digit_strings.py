"""Strings of handwritten digits in one picture, to be read from left to right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor

from rayloom.contract import component
from rayloom.datasets import Dataset
from rayloom.datasets.digits import read_digits
from rayloom_supervised.data.ragged import SizeConfig, ragged_dataset

BLANK_LABEL = "(blank)"


@dataclass(frozen=True, kw_only=True)
class DigitStringsConfig(SizeConfig):
    """Pictures of several handwritten digits side by side, generated from scikit-learn's single ones."""

    shortest: Annotated[int, Ge(1)] = 1
    """Fewest digits of a string."""
    longest: Annotated[int, Ge(1)] = 5
    """Most digits of a string."""
    gap: Annotated[int, Ge(0)] = 2
    """Most empty columns between two digits."""

    def __post_init__(self) -> None:
        """Refuse lengths in the wrong order."""
        if self.shortest > self.longest:
            raise ValueError("longest: make it at least shortest")


@component("data set", DigitStringsConfig)
def digit_strings(config: DigitStringsConfig, seed: int) -> Dataset:
    """Return `frames` float32 [L, 8] in 0..1, the columns of a picture, and `text` int64 [S], digit + 1; both ragged.

    The writers' images are cut into those of the training, validation and test strings (70, 15 and 15 %), so that no
    image of a held-out string was seen in training.
    """
    images, digits = read_digits()
    order = np.random.RandomState(0).permutation(len(digits))
    cuts = np.split(order, [round(0.7 * len(order)), round(0.85 * len(order))])
    chance = torch.Generator().manual_seed(seed)
    pixels, labels = torch.from_numpy(images).float() / 16, torch.from_numpy(digits)
    frames: list[Tensor] = []
    texts: list[Tensor] = []
    for members, count in zip(cuts, (config.train_size, config.validation_size, config.test_size), strict=True):
        pool = torch.from_numpy(members)
        for _ in range(count):
            length = int(torch.randint(config.shortest, config.longest + 1, (), generator=chance))
            chosen = pool[torch.randint(len(pool), (length,), generator=chance)]
            frames.append(_beside(pixels[chosen], config.gap, chance))
            texts.append(labels[chosen] + 1)
    names = (BLANK_LABEL, *(str(digit) for digit in range(10)))
    return ragged_dataset("digit-strings", config, {"frames": frames, "text": texts}, {"text": names})


def _beside(images: Tensor, gap: int, chance: torch.Generator) -> Tensor:
    """Return the columns [L, 8] of images [S, 8, 8] side by side with random gaps."""
    parts: list[Tensor] = []
    for image in images:
        empty = int(torch.randint(gap + 1, (), generator=chance))
        parts += [image.T, image.new_zeros(empty, len(image))]
    return torch.cat(parts)
