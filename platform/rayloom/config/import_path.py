"""Import by path: "package.module:name" becomes the object, and a mistake becomes a sentence with a suggestion."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rayloom.components import Kinds
from rayloom.errors import UserError
from rayloom.source_settings import SourceConfig, WorkerConfig

if TYPE_CHECKING:
    from rayloom.contract import Algorithm, Source

ALGORITHMS = Kinds(
    "algorithm", {}, own="a subclass of rayloom.contract.Algorithm", base="rayloom.contract.algorithm:Algorithm"
)
"""What trains; all are imported."""
_RESERVED = ("kind", "import")
"""Keys that choose a component, and so can be no setting of one."""


def suggest(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean X?", "; the choices are ..." or nothing."""
    names = list(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; the choices are {', '.join(names)}" if names and len(names) <= 30 else ""


def import_object(path: str, key: str) -> Any:
    """Import "package.module:name"; the sentence of the error names `key`."""
    module_name, _, name = path.partition(":")
    if not name or not all(part.isidentifier() for part in module_name.split(".")):
        raise UserError(f'{key}: {path!r} must have the form "package.module:name"')
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # A missing dependency inside the module is not a misspelt path: show its own traceback.
        if error.name and f"{module_name}.".startswith(f"{error.name}."):
            raise UserError(f"{key}: there is no module {error.name!r}; check the path {path!r}") from None
        raise
    if not hasattr(module, name):
        raise UserError(f"{key}: the module {module_name} has no {name!r}{suggest(name, vars(module))}")
    return getattr(module, name)


def import_component(kinds: Kinds, path: Any, key: str) -> Any:
    """Import a component of one's own; nothing is called, and what is no such component is refused."""
    if not isinstance(path, str):
        raise UserError(f'{key}: name the {kinds.of} as "package.module:Name", not {path!r}')
    found = import_object(path, key)
    if isinstance(found, type) and kinds.base is not None:
        fits = issubclass(found, import_object(kinds.base, key))
    else:
        fits = callable(found) and getattr(found, "component_of", None) == kinds.of
    if not fits:
        raise UserError(f"{key}: {path} is no {kinds.of}; name {kinds.own}")
    config = getattr(found, "Config", None)
    own = vars(config) if isinstance(config, type) else {}
    # A subclass of a dataclass that is none itself would lose its fields silently.
    undecorated = bool(own.get("__annotations__")) and "__dataclass_fields__" not in own
    if not isinstance(config, type) or not dataclasses.is_dataclass(config) or undecorated:
        raise UserError(f"{key}: {path} needs a Config beside it, a frozen dataclass of its settings")
    if not config.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise UserError(f"{key}: the Config of {path} must be frozen: write @dataclass(frozen=True, kw_only=True)")
    for name in _RESERVED:
        if name in config.__dataclass_fields__:
            raise UserError(f"{key}: {name!r} chooses a component; rename this field in the Config of {path}")
    return found


def import_algorithm(path: str) -> type[Algorithm]:
    """Import an algorithm class by path."""
    found: type[Algorithm] = import_component(ALGORITHMS, path, "algorithm.import")
    return found


def import_source(kinds: Kinds, path: str) -> type[Source]:
    """Import a source class by path; UserError where one's own or its `Config` cannot be one."""
    found: type[Source]
    if any(path == shipped.path for shipped in kinds.shipped.values()):
        found = import_object(path, "source.kind")
        return found
    found = import_component(kinds, path, "source.import")
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise UserError(f"source.import: {path} must implement {missing}")
    base = SourceConfig if found.worker is None else WorkerConfig
    if not issubclass(found.Config, base):
        raise UserError(f"source.import: the Config of {path} must be a subclass of rayloom.contract.{base.__name__}")
    return found
