"""Stacked images, with as many modes as there are combinations of classes: Metz et al. (2017), section 3.3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor

from rayloom.contract import Table, TensorSpec, UserError, component
from rayloom.datasets import Dataset, load


@dataclass(frozen=True, kw_only=True)
class StackedImagesConfig:
    """Grey images of three random examples, one in each colour plane: 1,000 modes of ten classes. Generated."""

    of: Literal["digits", "fashion-mnist", "mnist"] = "digits"
    """Data set whose images are stacked."""
    planes: Annotated[int, Ge(1), Le(3)] = 3
    """Images in each stack; pictures have the planes 1 and 3."""
    train_size: Annotated[int, Ge(1), Le(10_000_000)] = 20_000
    """Stacks to learn from."""
    held_out_size: Annotated[int, Ge(1), Le(10_000_000)] = 2_000
    """Stacks for validation, and as many for the test."""


@component("data set", StackedImagesConfig)
def stacked_images(config: StackedImagesConfig, seed: int) -> Dataset:
    """Return `image` [P, H, W] and `label` [P], the class of each plane, each split stacked from its own examples."""
    if config.planes == 2:
        raise UserError("source.dataset.planes: pictures have 1 or 3 planes, not 2")
    single = load(config.of, seed)
    image, label = single.spec["image"], single.spec["label"]
    generator = torch.Generator().manual_seed(seed)

    def draw(table: Table, count: int) -> dict[str, Tensor]:
        chosen = torch.randint(len(table), (count * config.planes,), generator=generator)
        rows = table.rows(chosen)
        shape = (count, config.planes, *image.shape[1:])
        return {"image": rows["image"].reshape(shape), "label": rows["label"].reshape(count, config.planes)}

    spec = {
        "image": TensorSpec(shape=(config.planes, *image.shape[1:]), dtype=image.dtype),
        "label": TensorSpec(shape=(config.planes,), dtype=label.dtype, num_values=(label.categories,) * config.planes),
    }
    sizes = (config.train_size, config.held_out_size, config.held_out_size)
    splits = zip((single.train, single.validation, single.test), sizes, strict=True)
    train, validation, test = (draw(table, size) for table, size in splits)
    return Dataset(train, validation, test, spec, f"stacked-{config.of}")
