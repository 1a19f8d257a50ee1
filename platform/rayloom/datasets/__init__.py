"""Data sets as components: `load("digits", 0)`, `load({"kind": "csv", "path": "iris.csv", "target": "species"}, 0)`.

A component is named by `kind` (shipped) or `import` ("module:name"), with its settings beside it. An own one is a
function `make(config, seed)` that returns a Dataset, marked by `@component("data set", Config)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from rayloom.config.import_path import import_object, suggest
from rayloom.config.load import validate
from rayloom.datasets.arrays import load_arrays
from rayloom.datasets.cifar import load_cifar10
from rayloom.datasets.component import component
from rayloom.datasets.dataset import Dataset
from rayloom.datasets.digits import load_digits
from rayloom.datasets.gaussian import load_gaussian, load_grid, load_ring
from rayloom.datasets.idx import load_fashion_mnist, load_mnist
from rayloom.datasets.image_folder import load_image_folder
from rayloom.datasets.tables import RaggedTable, RowTable, Subset, TensorTable
from rayloom.datasets.tabular import load_csv, load_parquet
from rayloom.datasets.text import load_documents, load_text
from rayloom.errors import UserError

__all__ = [
    "Dataset",
    "RaggedTable",
    "RowTable",
    "Subset",
    "TensorTable",
    "component",
    "descriptions",
    "load",
    "name_of",
    "names",
]

Component = str | Mapping[str, Any]
_Loader = TypeVar("_Loader", bound=Callable[..., Dataset])

KINDS: dict[str, Callable[[Any, int], Dataset]] = {
    "digits": load_digits,
    "fashion-mnist": load_fashion_mnist,
    "mnist": load_mnist,
    "cifar10": load_cifar10,
    "gaussian-grid": load_grid,
    "gaussian-ring": load_ring,
    "gaussian": load_gaussian,
    "image_folder": load_image_folder,
    "csv": load_csv,
    "parquet": load_parquet,
    "text": load_text,
    "documents": load_documents,
    "arrays": load_arrays,
}


def names() -> tuple[str, ...]:
    """Return the kinds that `load` knows."""
    return tuple(KINDS)


def descriptions() -> dict[str, str]:
    """Return one line about each kind, by name."""
    return {kind: (getattr(loader, "Config").__doc__ or "").splitlines()[0] for kind, loader in KINDS.items()}  # noqa: B009


def name_of(named: Component) -> str:
    """Return the word by which people know a data set: its kind or import path."""
    return named if isinstance(named, str) else str(named.get("kind") or named.get("import"))


def load(named: Component, seed: int) -> Dataset:
    """Load a data set: a kind, or a mapping of `kind` or `import` and settings.

    Only generated data depend on the seed; the splits of real data never change. UserError for an unknown kind or
    setting, for files that cannot be had and for files with other contents than expected.
    """
    settings = {"import" if ":" in named else "kind": named} if isinstance(named, str) else dict(named)
    kind, path = settings.pop("kind", None), settings.pop("import", None)
    if (kind is None) == (path is None):
        raise UserError("source.dataset: name either kind (a shipped data set) or import (one of your own)")
    if path is not None:
        return _own(str(path), settings, seed)
    if kind not in KINDS:
        raise UserError(f"source.dataset: there is no data set {kind!r}{suggest(str(kind), KINDS)}")
    return _made(KINDS[kind], str(kind), settings, seed)


def _own(path: str, settings: Mapping[str, Any], seed: int) -> Dataset:
    found = import_object(path, "source.dataset.import")
    if not callable(found) or getattr(found, "component_of", None) != "data set":
        raise UserError(
            f"source.dataset.import: {path} is no data set; name a function make(config, seed) that is marked with "
            f'@component("data set", Config)'
        )
    return _made(found, path, settings, seed)


def _made(make: Any, name: str, settings: Mapping[str, Any], seed: int) -> Dataset:
    config = validate(make.Config, settings, "source.dataset")
    made = make(config, seed)
    if not isinstance(made, Dataset):
        raise UserError(f"source.dataset: {name} must return a rayloom.datasets.Dataset, not {type(made).__name__}")
    made.name = made.name or name
    return made
