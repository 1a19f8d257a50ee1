"""Labelled data whose training labels say nothing: Zhang, Bengio, Hardt, Recht and Vinyals (2017), "Understanding deep
learning requires rethinking generalization"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge, Le

from rayloom.contract import UserError, component
from rayloom.datasets import Dataset, load


@dataclass(frozen=True, kw_only=True)
class RandomLabelsConfig:
    """A data set of which some training labels are drawn at random; held-out labels stay as they are."""

    dataset: str | Mapping[str, Any] = "digits"
    """The data set, as in `source.dataset`."""
    share: Annotated[float, Ge(0), Le(1)] = 1.0
    """Share of the training examples whose label is drawn anew, evenly from all classes."""


@component("data set", RandomLabelsConfig)
def random_labels(config: RandomLabelsConfig, seed: int) -> Dataset:
    """Return the data set with `label` drawn by the run's seed, once and not in every epoch; section 2 of the paper."""
    given = load(config.dataset, seed)
    spec = given.spec.get("label")
    if spec is None or spec.num_values is None or spec.shape:
        raise UserError(f"source.dataset: {given.name} has no label of classes that could be drawn at random")
    columns = dict(given.train.rows(torch.arange(len(given.train))))
    chance = torch.Generator().manual_seed(seed)
    drawn = torch.randint(spec.categories, columns["label"].shape, generator=chance)
    replaced = torch.rand(columns["label"].shape, generator=chance) < config.share
    columns["label"] = torch.where(replaced, drawn, columns["label"])
    return Dataset(columns, given.validation, given.test, given.spec, f"{given.name} with random labels")
