"""Random bits that are to be repeated: the copy task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge

from rayloom.contract import component
from rayloom.datasets import Dataset
from rayloom_supervised.data.ragged import SizeConfig, ragged_dataset


@dataclass(frozen=True, kw_only=True)
class CopySequencesConfig(SizeConfig):
    """Sequences of random bits; those of the test split are longer than any that was trained on."""

    width: Annotated[int, Ge(1)] = 8
    """Bits at a time."""
    longest: Annotated[int, Ge(1)] = 20
    """Longest sequence of the training and the validation split; the shortest has one place."""
    test_length: Annotated[int, Ge(1)] = 80
    """Length of every sequence of the test split."""


@component("data set", CopySequencesConfig)
def copy_sequences(config: CopySequencesConfig, seed: int) -> Dataset:
    """Return `pattern` float32 [L, width] of zeros and ones, ragged (Graves, Wayne and Danihelka 2014, section 4.1)."""
    chance = torch.Generator().manual_seed(seed)
    rows = []
    for number in range(config.total):
        tested = number >= config.train_size + config.validation_size
        length = config.test_length if tested else int(torch.randint(1, config.longest + 1, (), generator=chance))
        rows.append(torch.randint(2, (length, config.width), generator=chance).float())
    return ragged_dataset("copy-sequences", config, {"pattern": rows}, {})
