"""Import by path: "package.module:name" becomes the object, and a mistake becomes a sentence with a suggestion."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from typing import Any

from rayloom.contract import Algorithm
from rayloom.errors import UserError


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


def import_algorithm(path: str) -> type[Algorithm]:
    """Import an algorithm class by path."""
    found = import_object(path, "algorithm.import")
    if not isinstance(found, type) or not issubclass(found, Algorithm):
        raise UserError(f"algorithm.import: {path} is not a subclass of rayloom.contract.Algorithm")
    return found
