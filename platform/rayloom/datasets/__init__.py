"""Data sets by name: `load("digits", seed, {})`. An import path "package.module:function" is a name, too."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rayloom.config.import_path import import_object, suggest
from rayloom.config.load import validate
from rayloom.datasets.cifar import CIFAR10, CifarOptions, load_cifar10
from rayloom.datasets.dataset import Dataset, Split
from rayloom.datasets.digits import DigitsOptions, load_digits
from rayloom.datasets.gaussian import GaussianOptions, GridOptions, RingOptions, load_gaussian, load_grid, load_ring
from rayloom.datasets.idx import FASHION_MNIST, MNIST, IdxOptions, load_idx
from rayloom.errors import UserError

__all__ = ["Dataset", "Split", "descriptions", "load", "names"]


@dataclass(frozen=True)
class _KnownDataset:
    description: str
    options: type[Any]
    load: Callable[[int, Any], Dataset]


_ENTRIES: dict[str, _KnownDataset] = {
    "digits": _KnownDataset("1,797 handwritten digits 8x8, shipped with scikit-learn", DigitsOptions, load_digits),
    "fashion-mnist": _KnownDataset(
        "70,000 pieces of clothing 28x28 in 10 classes (Debian package dataset-fashion-mnist, else a download)",
        IdxOptions,
        lambda seed, options: load_idx(FASHION_MNIST, options),
    ),
    "mnist": _KnownDataset(
        "70,000 handwritten digits 28x28 (download)", IdxOptions, lambda seed, options: load_idx(MNIST, options)
    ),
    "cifar10": _KnownDataset(
        "60,000 colour photographs 32x32 in 10 classes (download)",
        CifarOptions,
        lambda seed, options: load_cifar10(CIFAR10, options),
    ),
    "gaussian-grid": _KnownDataset("points of 25 normal modes on a 5x5 grid, generated", GridOptions, load_grid),
    "gaussian-ring": _KnownDataset("points of 8 normal modes on a circle, generated", RingOptions, load_ring),
    "gaussian": _KnownDataset(
        "points of one normal distribution in any dimension, generated", GaussianOptions, load_gaussian
    ),
}


def names() -> tuple[str, ...]:
    """Return the names that `load` knows."""
    return tuple(_ENTRIES)


def descriptions() -> dict[str, str]:
    """Return one line about each data set, by name."""
    return {name: entry.description for name, entry in _ENTRIES.items()}


def load(name: str, seed: int, options: Mapping[str, Any]) -> Dataset:
    """Load a data set by name, or call the function at an import path as `function(seed, **options)`.

    Only generated data depend on the seed; the splits of real data never change. UserError for an unknown name or
    option, for files that cannot be had and for files with other contents than expected.
    """
    if name in _ENTRIES:
        entry = _ENTRIES[name]
        return entry.load(seed, validate(entry.options, options, "source.options"))
    if ":" in name:
        return _call(name, seed, options)
    raise UserError(f"source.dataset: there is no data set {name!r}{suggest(name, _ENTRIES)}")


def _call(path: str, seed: int, options: Mapping[str, Any]) -> Dataset:
    function = import_object(path, "source.dataset")
    if not callable(function):
        raise UserError(f"source.dataset: {path} is not a function: name one that returns a Dataset")
    try:
        inspect.signature(function).bind(seed, **options)
    except (TypeError, ValueError) as error:  # ValueError: a function of C without a signature
        raise UserError(f"source.options: {path} is called as function(seed, **options), but {error}") from None
    dataset = function(seed, **options)
    if not isinstance(dataset, Dataset):
        raise UserError(f"source.dataset: {path} must return a rayloom.datasets.Dataset, not {type(dataset).__name__}")
    return dataset
