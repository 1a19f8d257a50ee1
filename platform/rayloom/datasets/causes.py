"""Small textbook Bayesian networks as data: their variables, sampled from the published tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor

from rayloom.components import component
from rayloom.contract import TensorSpec
from rayloom.datasets.dataset import Dataset
from rayloom.datasets.splits import SPLITS
from rayloom.seeding import torch_generator

_ANSWERS = ("no", "yes")

Network = Mapping[str, tuple[tuple[str, ...], Tensor]]
"""Parents of each variable and p(yes | parents) [2 for each parent], parents before children."""


@dataclass(frozen=True, kw_only=True)
class CausesConfig:
    """How many examples to draw."""

    train_size: Annotated[int, Ge(1), Le(100_000_000)] = 10_000
    """Examples to learn from."""
    validation_size: Annotated[int, Ge(1), Le(100_000_000)] = 2_000
    """Held-out examples for development."""
    test_size: Annotated[int, Ge(1), Le(100_000_000)] = 2_000
    """Held-out examples for the last word."""


@dataclass(frozen=True, kw_only=True)
class SprinklerConfig(CausesConfig):
    """Cloudy, sprinkler, rain, wet_grass: four yes-or-no variables, generated."""


@dataclass(frozen=True, kw_only=True)
class AsiaConfig(CausesConfig):
    """Eight yes-or-no variables about diseases of the lung (Lauritzen and Spiegelhalter 1988), generated."""


def _table(*values: object) -> Tensor:
    return torch.tensor(values[0] if len(values) == 1 else values, dtype=torch.float64)


SPRINKLER: Network = {
    "cloudy": ((), _table(0.5)),
    "sprinkler": (("cloudy",), _table(0.5, 0.1)),
    "rain": (("cloudy",), _table(0.2, 0.8)),
    "wet_grass": (("sprinkler", "rain"), _table([0.0, 0.9], [0.9, 0.99])),
}
"""The network of Pearl (1988) with the numbers of Russell and Norvig, "Artificial Intelligence"."""

ASIA: Network = {
    "asia": ((), _table(0.01)),
    "smoking": ((), _table(0.5)),
    "tuberculosis": (("asia",), _table(0.01, 0.05)),
    "cancer": (("smoking",), _table(0.01, 0.1)),
    "bronchitis": (("smoking",), _table(0.3, 0.6)),
    "either": (("tuberculosis", "cancer"), _table([0.0, 1.0], [1.0, 1.0])),
    "xray": (("either",), _table(0.05, 0.98)),
    "dyspnoea": (("bronchitis", "either"), _table([0.1, 0.7], [0.8, 0.9])),
}
"""The network of Lauritzen and Spiegelhalter (1988)."""


def draw(network: Network, count: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Return `count` joint samples of a network of yes-or-no variables, int64 [count] by name; 1 is yes."""
    columns: dict[str, Tensor] = {}
    for name, (parents, table) in network.items():
        probability = table[tuple(columns[parent] for parent in parents)] if parents else table.expand(count)
        uniform = torch.rand(count, generator=generator, dtype=torch.float64)
        columns[name] = (uniform < probability).long()
    return columns


@component("data set", SprinklerConfig)
def load_sprinkler(config: SprinklerConfig, seed: int) -> Dataset:
    """Return joint samples of the sprinkler network, one int64 field for each variable."""
    return _sampled("sprinkler", SPRINKLER, config, seed)


@component("data set", AsiaConfig)
def load_asia(config: AsiaConfig, seed: int) -> Dataset:
    """Return joint samples of the Asia network, one int64 field for each variable."""
    return _sampled("asia", ASIA, config, seed)


def _sampled(name: str, network: Network, config: CausesConfig, seed: int) -> Dataset:
    sizes = (config.train_size, config.validation_size, config.test_size)
    train, validation, test = (
        draw(network, size, torch_generator(seed, "dataset", name, split))
        for split, size in zip(SPLITS, sizes, strict=True)
    )
    spec = {each: TensorSpec(shape=(), dtype=torch.int64, num_values=2, labels=_ANSWERS) for each in network}
    return Dataset(train, validation, test, spec, name)
