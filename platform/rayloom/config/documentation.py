"""What docstrings say of components and their settings, read from the sources without importing what they describe."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import inspect
import json
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from rayloom.components import Component
from rayloom.config.validation import kinds_of, plain

_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


@dataclass(frozen=True)
class Setting:
    """One field of a dataclass of settings."""

    type: str
    default: str | None
    """As YAML; None: it is required."""
    meaning: str


def first_line(docstring: str | None) -> str:
    """Return the first line of a docstring."""
    return (docstring or "").strip().partition("\n")[0]


def _source(module: str) -> Path | None:
    """Return a module's file; finding it imports nothing."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin)
    if rest:
        path = path.parent.joinpath(*rest)
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return path if path.is_file() else None


def _definitions(module: str) -> dict[str, ast.ClassDef | ast.FunctionDef]:
    path = _source(module)
    tree = ast.parse(path.read_text(encoding="utf-8")) if path else ast.Module([], [])
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}


def _mark(node: ast.ClassDef | ast.FunctionDef) -> tuple[str, str] | None:
    """Return what a definition is marked as, and the name of its settings."""
    for call in node.decorator_list:
        if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("component") and call.args:
            config = ast.unparse(call.args[1]) if len(call.args) > 1 else ""
            return str(ast.literal_eval(call.args[0])), config
    return None


def summary(path: str) -> str:
    """Return one line about the component at "module:Name": what its settings say, or itself where it has none."""
    module, _, name = path.partition(":")
    known = _definitions(module)
    node = known.get(name)
    if node is None:
        return ""
    mark = _mark(node)
    described = known.get(mark[1], node) if mark else node
    return first_line(ast.get_docstring(described))


def marked(module: str, of: str) -> dict[str, str]:
    """Return one line about each function or class of a module that is marked as a component of this kind.

    Where two kinds of a module have a component of one name, the function's says the kind too: mlp_critic is mlp.
    """
    return {name.removesuffix(f"_{of}"): summary(f"{module}:{name}") for name in _marked_names(module, of)}


def marked_path(module: str, of: str, kind: str) -> str:
    """Return where a component of `marked` lies, "module:name"."""
    return f"{module}:{next(name for name in _marked_names(module, of) if name.removesuffix(f'_{of}') == kind)}"


def _marked_names(module: str, of: str) -> list[str]:
    marks = {name: _mark(node) for name, node in _definitions(module).items()}
    return [name for name, mark in marks.items() if mark and mark[0] == of]


def settings(cls: type[Any]) -> dict[str, Setting]:
    """Return the fields of a dataclass with their types, defaults and the docstrings under them."""
    hints = get_type_hints(cls, include_extras=True)
    meanings = _meanings(cls)
    return {
        field.name: Setting(describe_type(hints[field.name]), _default(field), meanings.get(field.name, ""))
        for field in dataclasses.fields(cls)
        if field.init
    }


def _default(field: dataclasses.Field[Any]) -> str | None:
    if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
        return None
    made = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    if isinstance(made, Component):
        return made.name
    return made if isinstance(made, str) else json.dumps(plain(made), default=str)


def _meanings(cls: type[Any]) -> dict[str, str]:
    """Return the docstring under each field, its own or that of a base."""
    meanings: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        except (OSError, TypeError):
            continue  # a class that has no source, as those of a notebook
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:], strict=False):
            documented = isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and documented:
                meanings[field.target.id] = " ".join(str(text.value.value).split())  # type: ignore[attr-defined]
    return meanings


def describe_type(hint: Any) -> str:
    """Return a type hint in the words of a config."""
    kinds = kinds_of(hint)
    if kinds is not None:
        return kinds.of
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        bounds = [f"{sign} {getattr(extra, name)}" for extra in parts[1:] for name, sign in _BOUNDS.items()
                  if hasattr(extra, name)]  # fmt: skip
        return f"{describe_type(parts[0])} {' and '.join(bounds)}".strip()
    if origin in (Union, UnionType):
        words = [describe_type(part) for part in parts if part is not NoneType]
        return " or ".join([*words, *(["null"] if NoneType in parts else [])])
    if origin is Literal:
        return ", ".join(json.dumps(part) if not isinstance(part, str) else part for part in parts)
    if origin is tuple:
        if parts[-1] is Ellipsis:
            return f"list of {describe_type(parts[0])}"
        return f"[{', '.join(describe_type(part) for part in parts)}]"
    if dataclasses.is_dataclass(hint) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return "mapping"
    return getattr(hint, "__name__", None) or str(hint)
