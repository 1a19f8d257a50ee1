"""Sequences whose answer depends on what stood long ago: the adding problem, and a symbol to be remembered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor

from rayloom.contract import TensorSpec, component
from rayloom.datasets import Dataset
from rayloom_supervised.data.ragged import SizeConfig, ragged_dataset


@dataclass(frozen=True, kw_only=True)
class AddingConfig(SizeConfig):
    """Numbers in 0..1, two of which are marked: their sum is asked for (Hochreiter and Schmidhuber 1997, 5.4)."""

    lag: Annotated[int, Ge(4)] = 50
    """Fewest numbers; at most a tenth more. Both marks stand in the first half: one in its first fifth."""


@component("data set", AddingConfig)
def adding(config: AddingConfig, seed: int) -> Dataset:
    """Return `sequence` float32 [L, 2], ragged: number and mark (0 or 1), and `target` [1], the sum of the marked."""
    chance = np.random.default_rng(seed)
    sequences: list[Tensor] = []
    sums = torch.zeros(config.total, 1)
    for row in range(config.total):
        length = int(chance.integers(config.lag, config.lag + config.lag // 10 + 1))
        half = config.lag // 2
        first = int(chance.integers(max(1, half // 5)))
        marked = [first, int(chance.integers(first + 1, half))]
        numbers = torch.from_numpy(chance.random((length, 2)).astype(np.float32))
        numbers[:, 1] = 0
        numbers[marked, 1] = 1
        sequences.append(numbers)
        sums[row] = numbers[marked, 0].sum()
    columns = {"target": (sums, TensorSpec(shape=(1,), dtype=torch.float32))}
    return ragged_dataset("adding", config, {"sequence": sequences}, {}, columns)


@dataclass(frozen=True, kw_only=True)
class RememberingConfig(SizeConfig):
    """A symbol, then distracting ones: the first symbol is asked for."""

    lag: Annotated[int, Ge(1)] = 50
    """Fewest distracting symbols; at most a tenth more."""
    symbols: Annotated[int, Ge(2)] = 8
    """Symbols to be remembered; two others distract."""


@component("data set", RememberingConfig)
def remembering(config: RememberingConfig, seed: int) -> Dataset:
    """Return `sequence` float32 [L, symbols + 2], one-hot and ragged, and `label`, the first symbol."""
    chance = np.random.default_rng(seed)
    labels = chance.integers(config.symbols, size=config.total)
    kinds = np.eye(config.symbols + 2, dtype=np.float32)
    sequences: list[Tensor] = []
    for label in labels:
        count = int(chance.integers(config.lag, config.lag + config.lag // 10 + 1))
        places = np.concatenate(([label], chance.integers(config.symbols, config.symbols + 2, size=count)))
        sequences.append(torch.from_numpy(kinds[places]))
    names = tuple(chr(ord("a") + number) for number in range(config.symbols))
    spec = TensorSpec(shape=(), dtype=torch.int64, num_values=config.symbols, labels=names)
    columns = {"label": (torch.from_numpy(labels), spec)}
    return ragged_dataset("remembering", config, {"sequence": sequences}, {}, columns)
