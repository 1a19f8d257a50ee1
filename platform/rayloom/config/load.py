"""A config is a complete run: YAML and overrides become a frozen, typed RunConfig; unknown keys are rejected.

`load` accepts a file or the name of a shipped config. Mistakes raise UserError with one sentence that says what to
change. The parts of a config and their fields stand in `rayloom.config.schema`; they can be imported from here.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from rayloom.config.import_path import import_algorithm, import_object, suggest
from rayloom.config.schema import (
    RESOLVERS,
    UNITS,
    CheckpointConfig,
    ClusterConfig,
    EvaluateConfig,
    Interval,
    LearnerConfig,
    Limit,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
    TrackingConfig,
    plain,
)
from rayloom.config.search import SearchConfig
from rayloom.config.sources import (
    SOURCE_KINDS,
    STRICT,
    AsynchronousSourceConfig,
    DatasetSourceConfig,
    EnvironmentFields,
    EnvironmentSourceConfig,
    OnPolicySourceConfig,
    ReplaySourceConfig,
    SourceConfig,
)
from rayloom.errors import UserError

__all__ = [
    "SOURCE_KINDS",
    "UNITS",
    "AsynchronousSourceConfig",
    "CheckpointConfig",
    "ClusterConfig",
    "DatasetSourceConfig",
    "EnvironmentFields",
    "EnvironmentSourceConfig",
    "EvaluateConfig",
    "Interval",
    "LearnerConfig",
    "OnPolicySourceConfig",
    "OptimizerConfig",
    "ReplaySourceConfig",
    "RunConfig",
    "ScheduleConfig",
    "SearchConfig",
    "SourceConfig",
    "TrackingConfig",
    "apply_overrides",
    "config_folder",
    "find_config",
    "from_tree",
    "import_algorithm",
    "import_object",
    "load",
    "parse_yaml",
    "shipped_configs",
    "suggest",
    "validate",
]

_T = TypeVar("_T")
_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """YAML as a person expects it: 1e-4 and 3e5 are numbers, on/off/yes/no stay words, duplicate keys are errors."""


def _mapping_without_duplicates(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = []
    for key_node, _ in node.value:
        line = key_node.start_mark.line + 1
        if key_node.tag == _TAG + "merge":
            raise UserError(f"merge keys (<<) are not supported (line {line}): write the keys out")
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise UserError(f"the key {key!r} stands twice (line {line}): keep one of them")
        seen.append(key)
    return loader.construct_mapping(node, deep=True)


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    """Read 010 as ten, unlike YAML 1.1; 0x10 and 0b10 stay what they say."""
    digits = str(loader.construct_scalar(node)).replace("_", "")
    return int(digits, 0 if digits.lstrip("+-")[:2] in ("0x", "0b") else 10)


_Loader.yaml_implicit_resolvers = {}
for _type, _pattern, _letters in RESOLVERS:
    _Loader.add_implicit_resolver(_TAG + _type, _pattern, list(_letters))
_Loader.add_constructor(_TAG + "map", _mapping_without_duplicates)
_Loader.add_constructor(_TAG + "int", _integer)


def parse_yaml(text: str, name: str) -> Any:
    """Parse YAML text; `name` stands in the error sentence."""
    try:
        return yaml.load(text, Loader=_Loader)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: an explicit tag that does not fit, as !!int word
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise UserError(f"{name} is not valid YAML{where}: {problem}") from None


def config_folder() -> Path:
    """Return the folder of the shipped configs: beside the source in a checkout, inside the package in a wheel."""
    package = Path(__file__).resolve().parent.parent
    beside = package.parent.parent / "configs"
    return beside if beside.is_dir() else package / "configs"


def shipped_configs() -> dict[str, Path]:
    """Return the shipped configs by name, whichever folder they lie in."""
    return {path.stem: path for path in sorted(config_folder().rglob("*.yaml")) if path.parent.name != "cluster"}


def find_config(name: str) -> Path:
    """Return the path of a config file or of a shipped config's name."""
    path = Path(name)
    if path.is_file():
        return path
    shipped = shipped_configs()
    if name in shipped:
        return shipped[name]
    if path.is_dir():
        raise UserError(f"{name} is a folder: name a YAML file")
    raise UserError(f"there is no config file or shipped config {name!r}{suggest(name, shipped)}")


def load(name: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a config file or shipped name, apply overrides KEY=VALUE, and return the typed config."""
    path = find_config(name)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    tree = parse_yaml(text, str(path))
    if tree is None:
        raise UserError(f"{path} is empty: write a mapping with algorithm, source and stop (see `rayloom list`)")
    if not isinstance(tree, dict):
        raise UserError(f"{path} must be a mapping of keys to values, not a {type(tree).__name__}")
    tree.setdefault("name", path.stem)
    return from_tree(apply_overrides(tree, overrides))


def apply_overrides(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a copy of the tree with dotted overrides `KEY=VALUE` applied; values are YAML."""
    tree = cast(dict[str, Any], plain(tree))
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise UserError(f"the override {override!r} must have the form KEY=VALUE, as learner.batch_size=64")
        value = parse_yaml(text, f"override {key}") if text else None
        node = tree
        parts = ["stop", key[5:]] if key.startswith("stop.") else key.split(".")
        for part in parts[:-1]:
            if node.get(part) is None:
                node[part] = {}
            if not isinstance(node[part], dict):
                raise UserError(f"the override {key} goes through {part!r}, which is not a mapping")
            node = node[part]
        node[parts[-1]] = value
    return tree


def from_tree(tree: Mapping[str, Any]) -> RunConfig:
    """Validate plain data and return the typed config."""
    tree = dict(tree)
    _check_parts(tree)
    algorithm = dict(tree.pop("algorithm"))
    path = algorithm.pop("import", None)
    if not isinstance(path, str):
        raise UserError('algorithm.import: name the algorithm as "package.module:Class"')
    source = dict(tree.pop("source"))
    kind = source.get("kind")
    if not isinstance(kind, str) or kind not in SOURCE_KINDS:
        raise UserError(f"source.kind: {kind!r} is no source{suggest(str(kind), SOURCE_KINDS)}")
    algorithm_class = import_algorithm(path)
    if kind not in algorithm_class.sources:
        fitting = ", ".join(sorted(algorithm_class.sources))
        raise UserError(f"source.kind: {algorithm_class.__name__} cannot learn from {kind!r}; use {fitting}")
    _check_stop(tree["stop"])
    _check_intervals(tree)
    settings = validate(SOURCE_KINDS[kind], source, "source")
    return validate(
        RunConfig,
        {
            **tree,
            "algorithm_path": path,
            "algorithm": validate(algorithm_class.Config, algorithm, "algorithm"),
            "source": settings,
        },
        "",
    )


def _check_parts(tree: Mapping[Any, Any]) -> None:
    """Refuse a tree without one of the three parts that every run needs, and keys that are no strings."""
    unknown = [key for key in tree if isinstance(key, str) and key not in RunConfig.__dataclass_fields__]
    for part in ("algorithm", "source", "stop"):
        if not isinstance(tree.get(part), Mapping) or not tree[part]:
            close = difflib.get_close_matches(part, unknown, n=1)
            hint = f" (is {close[0]!r} a misspelling?)" if close else ""
            raise UserError(f"{part}: the config needs a mapping here{hint}")
    if "algorithm_path" in tree:
        raise UserError("algorithm_path: there is no such key; write algorithm.import")
    for prefix, keys in (("", tree), *((f"{part}.", tree[part]) for part in ("algorithm", "source", "stop"))):
        for key in keys:
            if not isinstance(key, str):
                raise UserError(f"{prefix}{key}: a key must be a word, not the {type(key).__name__} {key!r}")


def _check_stop(stop: Mapping[str, Any]) -> None:
    for key, value in stop.items():
        if isinstance(value, str) and key not in UNITS and "/" in key:
            Limit.parse(value, f"stop.{key}")
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"stop.{key}: {value!r} is not a number")
        if key not in UNITS and "/" not in key:
            raise UserError(f"stop.{key}: is neither a counter nor a metric{suggest(key, UNITS)}")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"stop.{key}: must be a finite number, not {value}")
        if key in UNITS and value < 1:
            raise UserError(f"stop.{key}: must be at least 1, not {value}")
        if key in UNITS and value != int(value):
            raise UserError(f"stop.{key}: must be a whole number, not {value}")
    if not any(key in UNITS for key in stop):
        raise UserError(f"stop: set a budget with one of {', '.join(UNITS)} so that the run ends")


def _check_intervals(tree: Mapping[str, Any]) -> None:
    for part in ("evaluate", "checkpoint", "tracking"):
        every = tree[part].get("every") if isinstance(tree.get(part), Mapping) else None
        if every is not None and not isinstance(every, bool):  # `validate` has a sentence for booleans
            Interval.parse(str(every), f"{part}.every")


@functools.cache
def _adapter(cls: type[Any]) -> TypeAdapter[Any]:
    """Return pydantic's validator of a class, which takes milliseconds to build."""
    return TypeAdapter(cls)


def validate(cls: type[_T], data: Mapping[str, Any], prefix: str) -> _T:
    """Return `cls` built from plain data; the first mistake becomes a UserError that names key and remedy."""
    if dataclasses.is_dataclass(cls) and "__pydantic_config__" not in vars(cls):
        cls.__pydantic_config__ = STRICT  # type: ignore[attr-defined]
    try:
        built: _T = _adapter(cls).validate_python(dict(data))  # type: ignore[arg-type]  # a class is hashable
    except ValidationError as error:
        raise UserError(_explain(error, cls, data, prefix)) from None
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


def _explain(error: ValidationError, cls: type[Any], data: Mapping[str, Any], prefix: str) -> str:
    problem = error.errors()[0]
    location = _location(problem["loc"], data)
    key = ".".join([prefix, *location] if prefix else location)
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{key}: there is no such key{suggest(location[-1], _field_names(cls, location[:-1]))}"
    if problem["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{key}: this key is required"
    message = problem["msg"].removeprefix("Value error, ")
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
