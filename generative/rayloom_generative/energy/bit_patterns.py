"""Bars and stripes, a data set of bits: MacKay (2003), "Information theory, inference, and learning algorithms"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor

from rayloom.contract import TensorSpec, component
from rayloom.datasets import Dataset
from rayloom_generative.equations.boltzmann import all_states


@dataclass(frozen=True, kw_only=True)
class BarsAndStripesConfig:
    """Pictures of whole rows or whole columns, 2 x 3 pixels unless told: 6 bits, 10 patterns. Generated."""

    height: Annotated[int, Ge(1), Le(8)] = 2
    """Rows of pixels."""
    width: Annotated[int, Ge(1), Le(8)] = 3
    """Columns of pixels."""
    flip: Annotated[float, Ge(0), Le(1)] = 0.05
    """Probability with which each bit is turned over."""
    train_size: Annotated[int, Ge(1), Le(100_000_000)] = 5_000
    """Pictures to learn from."""
    held_out_size: Annotated[int, Ge(1), Le(100_000_000)] = 2_000
    """Pictures for validation, and as many for the test."""


def patterns(height: int, width: int) -> Tensor:
    """Return the different pictures of whole rows or columns that are on, [P, height * width], 0 or 1."""
    rows = all_states(height)[:, :, None].expand(-1, -1, width)
    columns = all_states(width)[:, None, :].expand(-1, height, -1)
    different: Tensor = torch.unique(torch.cat((rows.flatten(1), columns.flatten(1))), dim=0)
    return different


@component("data set", BarsAndStripesConfig)
def bars_and_stripes(config: BarsAndStripesConfig, seed: int) -> Dataset:
    """Return `point` [height * width] of noisy patterns, each as likely as the others."""
    known = patterns(config.height, config.width)
    generator = torch.Generator().manual_seed(seed)

    def draw(count: int) -> dict[str, Tensor]:
        chosen = known[torch.randint(len(known), (count,), generator=generator)]
        turned = torch.rand(chosen.shape, generator=generator) < config.flip
        return {"point": torch.where(turned, 1 - chosen, chosen)}

    train, validation, test = (draw(size) for size in (config.train_size, config.held_out_size, config.held_out_size))
    spec = {"point": TensorSpec(shape=(config.height * config.width,), dtype=torch.float32)}
    return Dataset(train, validation, test, spec, "bars-and-stripes")
