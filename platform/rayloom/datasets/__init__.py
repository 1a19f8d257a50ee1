"""Data sets as components: `load("digits", 0)`, `load({"kind": "csv", "path": "iris.csv", "target": "species"}, 0)`.

A component is named by `kind` (shipped) or `import` ("module:name"), with its settings beside it. An own one is a
function `make(config, seed)` that returns a Dataset, marked by `@component("data set", Config)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rayloom.components import Component
from rayloom.config.sources import DATASETS
from rayloom.config.validation import resolve
from rayloom.datasets.dataset import Dataset
from rayloom.datasets.tables import RaggedTable, RowTable, Subset, TensorTable
from rayloom.errors import UserError

__all__ = ["Dataset", "RaggedTable", "RowTable", "Subset", "TensorTable", "descriptions", "load", "names"]


def names() -> tuple[str, ...]:
    """Return the kinds that `load` knows."""
    return tuple(DATASETS.shipped)


def descriptions() -> dict[str, str]:
    """Return one line about each kind, by name."""
    return {kind: (DATASETS.config(kind).__doc__ or "").splitlines()[0] for kind in DATASETS.shipped}


def load(named: str | Mapping[str, Any] | Component, seed: int) -> Dataset:
    """Load a data set: a kind, or a mapping of `kind` or `import` and settings.

    Only generated data depend on the seed; the splits of real data never change. UserError for an unknown kind or
    setting, for files that cannot be had and for files with other contents than expected.
    """
    chosen = resolve(DATASETS, named, "source.dataset")
    made = chosen.load()(chosen.settings, seed)
    if not isinstance(made, Dataset):
        raise UserError(
            f"source.dataset: {chosen.name} must return a rayloom.datasets.Dataset, not {type(made).__name__}"
        )
    made.name = made.name or chosen.name
    return made
