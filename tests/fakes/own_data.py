"""Data sets of a user's own: functions that a config names by import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rayloom import datasets
from rayloom.contract import component


@dataclass(frozen=True, kw_only=True)
class PointsConfig:
    """Points in the plane."""

    count: int = 7
    """Points to learn from."""


@component("data set", PointsConfig)
def points(config: PointsConfig, seed: int) -> datasets.Dataset:
    """Return normal points."""
    sizes = {"train_size": config.count, "validation_size": 1, "test_size": 1}
    return datasets.load({"kind": "gaussian", **sizes}, seed)


@component("data set", PointsConfig)
def texts(config: PointsConfig, seed: int) -> Any:
    """Return something else than a data set."""
    return "points"
