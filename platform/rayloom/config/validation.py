"""Plain data become frozen dataclasses, and components where a field names them; a mistake becomes one sentence."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from rayloom.components import Component, Kinds
from rayloom.config.import_path import import_component, settings_of, suggest
from rayloom.config.sources import STRICT
from rayloom.errors import UserError

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

_T = TypeVar("_T")


@functools.cache
def _adapter(cls: type[Any]) -> TypeAdapter[Any]:
    """Return pydantic's validator of a class, which takes milliseconds to build."""
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


def named(word: str) -> dict[str, Any]:
    """Return the mapping for which a bare word is short."""
    return {"import" if ":" in word else "kind": word}


def resolve(kinds: Kinds, value: Any, key: str) -> Component:
    """Return the component that a config names at `key`: a word, or a mapping with kind or import, and settings."""
    if isinstance(value, Component):
        return value
    if isinstance(value, str):
        value = named(value)
    if not isinstance(value, Mapping):
        raise UserError(f"{key}: name a kind of {kinds.of}, alone or with its settings, not {value!r}")
    settings = dict(value)
    if "import" in settings:
        path = settings.pop("import")
        if "kind" in settings:
            raise UserError(f"{key}: kind names a shipped {kinds.of} and import one of your own; keep one of them")
        config = settings_of(kinds, import_component(kinds, path, f"{key}.import"), f"{key}.import")
        return Component(None, path, validate(config, settings, key, path))
    kind = settings.pop("kind", kinds.default)
    if not isinstance(kind, str) or kind not in kinds.shipped:
        raise UserError(f"{key}.kind: {kind!r} is no {kinds.of}{suggest(str(kind), kinds.shipped)}")
    return Component(kind, kinds.shipped[kind].path, validate(kinds.config(kind), settings, key, kind))


def override(kinds: Kinds, component: Component, settings: Mapping[str, Any], key: str) -> Component:
    """Return a component with some settings replaced; another kind or import begins with its own defaults."""
    return resolve(kinds, merge(plain(component), settings), key)


def merge(tree: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tree with the keys of `other` laid over it, mapping by mapping.

    A mapping that names another component (by kind or import) takes the place of the one below it, whole: settings of
    one kind mean nothing to another.
    """
    if any(name in other and other[name] != tree.get(name) for name in ("kind", "import")):
        return dict(other)
    merged = dict(tree)
    for key, value in other.items():
        below = merged.get(key)
        if isinstance(below, str) and isinstance(value, Mapping):
            below = named(below)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            value = merge(below, value)
        merged[key] = value
    return merged


def plain(value: Any) -> Any:
    """Return a copy made of mappings, lists and scalars alone."""
    if isinstance(value, Component):
        return {"import" if value.kind is None else "kind": value.name, **plain(value.settings)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def changed(value: Any) -> Any:
    """Return, as `plain` does, the settings of a dataclass that differ from its defaults, with those that have none."""
    if isinstance(value, Component):
        return {"import" if value.kind is None else "kind": value.name, **changed(value.settings)}
    found = {}
    for field in dataclasses.fields(value):
        own, default = getattr(value, field.name), field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if own == default:
            continue
        alike = default is dataclasses.MISSING or type(own) is type(default)
        nested = isinstance(own, Component) or (dataclasses.is_dataclass(own) and alike)
        found[field.name] = changed(own) if nested else plain(own)
    return found


def kinds_of(hint: Any) -> Kinds | None:
    """Return the kinds of component that a type hint `Annotated[Component, KINDS]` declares."""
    return next((extra for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, Kinds)), None)


def _resolve_parts(hint: Any, value: Any, key: str) -> Any:
    """Return plain data in which components are resolved, wherever a type hint names them."""
    kinds = kinds_of(hint)
    if kinds is not None:
        return resolve(kinds, value, key)
    if get_origin(hint) is Annotated:
        return _resolve_parts(get_args(hint)[0], value, key)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        hints = _hints(hint)
        return {
            name: _resolve_parts(hints[name], item, f"{key}.{name}" if key else str(name)) if name in hints else item
            for name, item in value.items()
        }
    parts = [part for part in get_args(hint) if _names_components(part)]
    if not parts or value is None:
        return value
    if get_origin(hint) in (Union, UnionType):
        return _resolve_parts(parts[0], value, key)
    if isinstance(value, Mapping) and issubclass(get_origin(hint), Mapping):
        return {name: _resolve_parts(parts[-1], item, f"{key}.{name}") for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_resolve_parts(parts[0], item, f"{key}.{index}") for index, item in enumerate(value)]
    return value


@functools.cache
def _hints(cls: type[Any]) -> dict[str, Any]:
    """Return the type hints of those fields of a dataclass that name components."""
    hints = get_type_hints(cls, include_extras=True)
    fields = [field.name for field in dataclasses.fields(cls)]
    return {name: hints[name] for name in fields if _names_components(hints[name])}


def _names_components(hint: Any) -> bool:
    if kinds_of(hint) is not None:
        return True
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return bool(_hints(hint))
    return any(_names_components(part) for part in get_args(hint))


def validate(cls: type[_T], data: Mapping[str, Any], prefix: str, owner: str = "") -> _T:
    """Return `cls` built from plain data; the first mistake becomes a UserError that names key and remedy.

    `owner` is the component whose settings these are, for the sentence.
    """
    from pydantic import ValidationError

    data = _resolve_parts(cls, data, prefix)
    if dataclasses.is_dataclass(cls) and "__pydantic_config__" not in vars(cls):
        cls.__pydantic_config__ = STRICT  # type: ignore[attr-defined]
    try:
        built: _T = _adapter(cls).validate_python(dict(data))  # type: ignore[arg-type]  # a class is hashable
    except ValidationError as error:
        raise UserError(_explain(error, cls, data, prefix, owner)) from None
    _reject_booleans(data, built, prefix)
    return built


def _reject_booleans(value: Any, built: Any, key: str) -> None:
    """Pydantic takes true for 1; a person who writes `batch_size: true` made a mistake."""
    if isinstance(value, bool) and isinstance(built, int | float) and not isinstance(built, bool):
        raise UserError(f"{key}: must be a number, not {value}")
    dotted = f"{key}." if key else ""
    if isinstance(value, Mapping):
        for name, item in value.items():
            part = built.get(name) if isinstance(built, Mapping) else getattr(built, str(name), None)
            _reject_booleans(item, part, f"{dotted}{name}")
    elif isinstance(value, list | tuple) and isinstance(built, list | tuple):
        for index, (item, part) in enumerate(zip(value, built, strict=True)):
            _reject_booleans(item, part, f"{dotted}{index}")


def _explain(error: ValidationError, cls: type[Any], data: Mapping[str, Any], prefix: str, owner: str) -> str:
    problem = error.errors()[0]
    location = _location(problem["loc"], data)
    key = ".".join([prefix, *location] if prefix else location)
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = suggest(location[-1], _field_names(cls, location[:-1]))
        return f"{key}: {owner} has no such setting{known}" if owner else f"{key}: there is no such key{known}"
    if problem["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{key}: this key is required"
    message = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:  # said by __post_init__, of the settings together
        return f"{prefix}: {message}"
    message = message.replace("a valid tuple", "a list")
    return f"{key}: {message[:1].lower()}{message[1:]}, not {problem['input']!r}"


def _location(parts: Sequence[str | int], data: Any) -> list[str]:
    """Return the keys that lead to a mistake in the data, without the types that pydantic names between them."""
    location = []
    for index, part in enumerate(parts):
        last = index == len(parts) - 1 and part != "[key]"
        if isinstance(data, Mapping) and (part in data or last):  # the last may be missing
            data = data.get(part)
        elif isinstance(data, list | tuple) and isinstance(part, int):
            data = data[part] if part < len(data) else None
        else:
            continue
        location.append(str(part))
    return location


def _field_names(cls: type[Any], location: Sequence[str]) -> list[str]:
    """Return the fields of the dataclass that lies at `location` in `cls`, or nothing where none does."""
    owner: Any = cls
    for part in location:
        hint = get_type_hints(owner).get(part) if dataclasses.is_dataclass(owner) else None
        owner = next((kind for kind in (hint, *get_args(hint)) if dataclasses.is_dataclass(kind)), None)
    return [field.name for field in dataclasses.fields(owner)] if dataclasses.is_dataclass(owner) else []
