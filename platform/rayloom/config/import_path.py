"""Import by path: "package.module:name" becomes the object, and a mistake becomes a sentence with a suggestion."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import inspect
from collections.abc import Iterable
from types import NoneType
from typing import TYPE_CHECKING, Any

from rayloom.components import Kinds
from rayloom.errors import MissingModule, UserError
from rayloom.source_settings import SourceConfig, WorkerConfig

if TYPE_CHECKING:
    from rayloom.contract import Algorithm, Source

ALGORITHMS = Kinds(
    "algorithm", {}, own="a subclass of rayloom.contract.Algorithm", base="rayloom.contract.algorithm:Algorithm"
)
"""What trains; all are imported."""
_MOST_CHOICES = 10
_RESERVED = ("kind", "import")
"""Keys that choose a component, and so can be no setting of one."""


def suggest(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean X?", "; the choices are ..." with ten of them at most, or nothing."""
    names = list(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    if not names:
        return ""
    more = f" and {len(names) - _MOST_CHOICES} more" if len(names) > _MOST_CHOICES else ""
    return f"; the choices are {', '.join(names[:_MOST_CHOICES])}{more}"


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
            raise MissingModule(f"{key}: there is no module {error.name!r}; check the path {path!r}") from None
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
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise UserError(f"{key}: {path} must implement {missing}")
    _check_settings(kinds, path, settings_of(kinds, found, key), key)
    return found


def settings_of(kinds: Kinds, found: Any, key: str) -> Any:
    """Return the class of an imported component's settings: its `Config`, or its keywords where these will do."""
    if not kinds.keywords or hasattr(found, "Config"):
        return getattr(found, "Config", None)
    for name, parameter in _arguments(found).items():
        if parameter.kind in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL):
            raise UserError(f"{key}: {found.__name__} takes *{name}, which cannot be checked; give it a Config")
    return _keyword_settings(found)


def _arguments(found: type[Any]) -> dict[str, inspect.Parameter]:
    """Return the arguments that a class takes after its first one, the environment."""
    return dict(list(inspect.signature(found).parameters.items())[1:])


@functools.cache
def _keyword_settings(found: type[Any]) -> type[Any]:
    """Return a dataclass of a class's arguments.

    An argument whose default is no plain value cannot be written in a config, and is left as it is.
    """
    fields: list[tuple[str, Any, Any]] = []
    for name, parameter in _arguments(found).items():
        if parameter.default is inspect.Parameter.empty:
            fields.append((name, Any, dataclasses.field()))
        elif isinstance(parameter.default, bool | int | float | str | NoneType):
            fields.append((name, Any, dataclasses.field(default=parameter.default)))
    return dataclasses.make_dataclass(f"{found.__name__}Settings", fields, frozen=True, kw_only=True)


def _check_settings(kinds: Kinds, path: str, config: Any, key: str) -> None:
    """Refuse settings of an imported component that are no frozen dataclass, or not of the kind that it needs."""
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
    if kinds.settings is not None and not issubclass(config, kinds.settings):
        base = f"rayloom.contract.{kinds.settings.__name__}"
        raise UserError(f"{key}: the Config of {path} must be a subclass of {base}")


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
    base = SourceConfig if found.worker is None else WorkerConfig
    if not issubclass(found.Config, base):
        raise UserError(f"source.import: the Config of {path} must be a subclass of rayloom.contract.{base.__name__}")
    return found


def gives_data(source: type[Source]) -> bool:
    """Return whether a source loads a data set, on which a run can be judged."""
    from rayloom.contract import Source

    return source.load_data.__func__ is not Source.load_data.__func__  # type: ignore[attr-defined]
