"""A config is a complete run: YAML and overrides become a frozen, typed RunConfig; unknown keys are rejected.

`load` accepts a file or the name of a shipped config. Mistakes raise UserError with one sentence that says what to
change. The parts of a config and their fields stand in `rayloom.config.schema`; they can be imported from here.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import stat
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml

from rayloom.config.evaluations import kind_for, with_kind
from rayloom.config.import_path import ALGORITHMS, gives_data, import_algorithm, import_object, import_source, suggest
from rayloom.config.inputs import written_out
from rayloom.config.names import check_name, output_folder
from rayloom.config.schema import (
    PATIENCE,
    RESOLVERS,
    UNITS,
    CheckpointConfig,
    ClusterConfig,
    Interval,
    LearnerConfig,
    Limit,
    RunConfig,
    TrackingConfig,
)
from rayloom.config.search import SearchConfig
from rayloom.config.sources import SOURCES, EnvironmentFields
from rayloom.config.validation import merge, named, plain, resolve, validate
from rayloom.errors import UserError
from rayloom.files import DamagedFileError, read_text

__all__ = [
    "SOURCES",
    "UNITS",
    "CheckpointConfig",
    "ClusterConfig",
    "EnvironmentFields",
    "Interval",
    "LearnerConfig",
    "RunConfig",
    "SearchConfig",
    "TrackingConfig",
    "apply_overrides",
    "config_folder",
    "find_config",
    "from_tree",
    "import_algorithm",
    "import_object",
    "load",
    "parse_yaml",
    "read_tree",
    "shipped_configs",
    "shipped_pipelines",
    "suggest",
    "validate",
]

_TAG = "tag:yaml.org,2002:"
_DEEPEST = 50
_MOST_VALUES = 100_000
_TOO_DEEP = f"its values are nested deeper than {_DEEPEST} levels: flatten it"


class _Loader(yaml.SafeLoader):
    """YAML as a person expects it: 1e-4 and 3e5 are numbers, on/off/yes/no stay words, duplicate keys are errors."""


def _mapping_without_duplicates(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        line = key_node.start_mark.line + 1
        if key_node.tag == _TAG + "merge":
            raise UserError(f"merge keys (<<) are not supported (line {line}): write the keys out")
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, Hashable):
            raise UserError(f"a key must be a word (line {line}), not a list or mapping")
        if key in seen:
            raise UserError(f"the key {key!r} stands twice (line {line}): keep one of them")
        seen.add(key)
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


def _check_size(node: yaml.Node, depth: int, sizes: dict[yaml.Node, int]) -> int:
    """Return how many values a node stands for, with aliases written out; UserError for more than a config has."""
    if depth > _DEEPEST:
        raise UserError(_TOO_DEEP)
    if node not in sizes:
        sizes[node] = _MOST_VALUES + 1  # until it is known: what holds itself never ends
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        inner = parts if isinstance(node, yaml.CollectionNode) else ()
        sizes[node] = 1 + sum(_check_size(part, depth + 1, sizes) for part in inner)
    if sizes[node] > _MOST_VALUES:
        raise UserError(f"it stands for more than {_MOST_VALUES:,} values: leave out aliases of aliases and long lists")
    return sizes[node]


def parse_yaml(text: str, name: str) -> Any:
    """Parse YAML text; `name` stands in the error sentence."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node, 0, {})
        return loader.construct_document(node)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    except RecursionError:
        raise UserError(f"{name}: {_TOO_DEEP}") from None
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError) as error:
        # All but the first: an explicit tag that does not fit, as !!int word or !!bool maybe.
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        if isinstance(error, LookupError | TypeError | AttributeError):
            problem = f"a tag does not fit its value ({problem})"
        raise UserError(f"{name} is not valid YAML{where}: {problem}") from None


def config_folder() -> Path:
    """Return the folder of the shipped configs: beside the source in a checkout, inside the package in a wheel."""
    package = Path(__file__).resolve().parent.parent
    beside = package.parent.parent / "configs"
    return beside if beside.is_dir() else package / "configs"


def shipped_configs() -> dict[str, Path]:
    """Return the shipped configs by name, whichever folder they lie in."""
    return {path.stem: path for path in _shipped() if path.parent.name not in ("cluster", "pipelines")}


def shipped_pipelines() -> dict[str, Path]:
    """Return the shipped pipelines by name; none of them has the name of a config."""
    return {path.stem: path for path in _shipped() if path.parent.name == "pipelines"}


def _shipped() -> list[Path]:
    return sorted(config_folder().rglob("*.yaml"))


def find_config(name: str) -> Path:
    """Return the path of a config file or of a shipped config's name."""
    path = Path(name)
    if _is(path, stat.S_ISREG):
        return path
    shipped = {**shipped_configs(), **shipped_pipelines()}
    if name in shipped:
        return shipped[name]
    if _is(path, stat.S_ISDIR):
        raise UserError(f"{name} is a folder: name a YAML file")
    raise UserError(f"there is no config file or shipped config {name!r}{suggest(name, shipped)}")


def _is(path: Path, kind: Callable[[int], bool]) -> bool:
    """Tell what lies at a path that a person wrote: nothing where the system takes no such path, or refuses it."""
    try:
        return kind(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def load(name: str, words: Sequence[str] = ()) -> RunConfig:
    """Read a config file or shipped name, lay further words over it, and return the typed config.

    A word is an override KEY=VALUE or another config, whose keys win over those before it. Overrides come last.
    """
    overrides = [word for word in words if "=" in word]
    tree: dict[str, Any] = {"name": find_config(name).stem, **read_tree(find_config(name))}
    for word in words:
        if "=" not in word:
            shipped = shipped_configs()
            if word not in shipped and not _is(Path(word), lambda mode: True):
                raise UserError(f"{word!r} is neither a config nor an override KEY=VALUE{suggest(word, shipped)}")
            tree = merge(tree, read_tree(find_config(word)))
    return from_tree(apply_overrides(tree, overrides))


def read_mapping(path: Path) -> dict[str, Any]:
    """Return what a YAML file says, which must be a mapping; UserError where it is none, or no file."""
    try:
        text = read_text(path)
    except DamagedFileError as error:
        raise UserError(f"{path} cannot be read: {error.reason}") from None
    if text is None:
        raise UserError(f"{path} cannot be read: there is no such file")
    tree = parse_yaml(text, str(path))
    if tree is None:
        raise UserError(f"{path} is empty: write a mapping with algorithm, source and stop (see `rayloom list`)")
    if not isinstance(tree, dict):
        raise UserError(f"{path} must be a mapping of keys to values, not a {type(tree).__name__}")
    return tree


def read_tree(path: Path, extended_by: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return a config's tree, laid over that of the config which it extends."""
    tree = read_mapping(path)
    if "extends" not in tree:
        return tree
    base = tree.pop("extends")
    if not isinstance(base, str):
        raise UserError(f"extends: name one config that {path.name} changes, not {base!r}")
    beside = path.parent / base
    found = beside if _is(beside, stat.S_ISREG) else find_config(base)
    chain = (*extended_by, path.resolve())
    if found.resolve() in chain:
        raise UserError(f"extends: {path.name} extends {base}, which extends it; break the circle")
    return merge(read_tree(found, chain), tree)


def apply_overrides(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a copy of the tree with dotted overrides `KEY=VALUE` applied, each to one key; values are YAML.

    A key below a bare word (`optimizer: sgd` and learner.optimizer.momentum=0.9) is a setting of that component.
    """
    tree = cast(dict[str, Any], plain(tree))
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise UserError(f"the override {override!r} must have the form KEY=VALUE, as learner.batch_size=64")
        value = parse_yaml(text, f"override {key}") if text else None
        node = tree
        parts = ["stop", key[5:]] if key.startswith("stop.") else key.split(".")
        for depth, part in enumerate(parts[:-1]):
            if node.get(part) is None:
                node[part] = {}
            elif isinstance(node[part], str) and depth:
                node[part] = named(node[part])
            if not isinstance(node[part], dict):
                raise UserError(f"the override {key} goes through {part!r}, which is not a mapping")
            node = node[part]
        node[parts[-1]] = value
    return tree


def from_tree(tree: Mapping[str, Any]) -> RunConfig:
    """Validate plain data and return the typed config: the engine's own keys first, then the algorithm's."""
    tree = dict(tree)
    _check_numbers(tree, "")
    _check_parts(tree)
    algorithm = dict(tree.pop("algorithm"))
    path = algorithm.get("import")
    if not isinstance(path, str):
        raise UserError('algorithm.import: name the algorithm as "package.module:Class"')
    source = dict(tree.pop("source"))
    source_path, kind, config, judged_by = _choose_source(source)
    _check_stop(tree["stop"])
    _check_intervals(tree)
    tree["evaluate"] = with_kind(tree.get("evaluate"), judged_by)
    if "inputs" in tree:
        tree["inputs"] = written_out(tree["inputs"])
        if isinstance(tree["inputs"], Mapping) and "start_from" in tree["inputs"]:
            raise UserError("inputs.start_from: there is a part of that name beside inputs; choose another name")
    settings = validate(config, source, "source")
    paths = {"algorithm_path": path, "source_path": source_path}
    run = validate(RunConfig, {**tree, **paths, "algorithm": None, "source": settings}, "")
    check_name(run.name, "name")
    output_folder(run.output)
    for name in run.inputs:
        check_name(name, f"inputs.{name!r}")
    # Last, because the algorithm's module imports torch: a mistake in the keys above is told at once.
    algorithm_class = import_algorithm(path)
    if kind is not None and kind not in algorithm_class.sources:
        fitting = ", ".join(sorted(algorithm_class.sources))
        raise UserError(f"source.kind: {algorithm_class.__name__} cannot learn from {kind!r}; use {fitting}")
    return dataclasses.replace(run, algorithm=resolve(ALGORITHMS, algorithm, "algorithm").settings)


def _check_numbers(value: Any, key: str) -> None:
    """Refuse whole numbers that no tensor, array or clock takes: of more than 64 bits, wherever they stand."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            _check_numbers(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _check_numbers(item, f"{key}.{index}")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise UserError(f"{key}: a number of {value.bit_length()} bits is too large; write one below 2**63")


def _choose_source(source: dict[str, Any]) -> tuple[str, str | None, type[Any], str]:
    """Return import path, kind and class of the settings of a source, and the kind of evaluation that goes with it.

    One's own path is taken out of the mapping.
    """
    if "import" in source:
        path = source.pop("import")
        if "kind" in source:
            raise UserError("source: kind names a shipped source and import one of your own; keep one of them")
        own = import_source(SOURCES, path)
        return path, own.kind, own.Config, kind_for(own.Config, gives_data(own))
    kind = source.get("kind")
    if not isinstance(kind, str) or kind not in SOURCES.shipped:
        raise UserError(f"source.kind: {kind!r} is no source{suggest(str(kind), SOURCES.shipped)}")
    return SOURCES.shipped[kind].path, kind, SOURCES.config(kind), kind_for(SOURCES.config(kind), kind == "dataset")


def _check_parts(tree: Mapping[Any, Any]) -> None:
    """Refuse a tree without one of the three parts that every run needs, and keys that are no strings."""
    unknown = [key for key in tree if isinstance(key, str) and key not in RunConfig.__dataclass_fields__]
    for part in ("algorithm", "source", "stop"):
        if not isinstance(tree.get(part), Mapping) or not tree[part]:
            close = difflib.get_close_matches(part, unknown, n=1)
            hint = f" (is {close[0]!r} a misspelling?)" if close else ""
            raise UserError(f"{part}: the config needs a mapping here{hint}")
    for part in ("algorithm", "source"):
        if f"{part}_path" in tree:
            raise UserError(f"{part}_path: there is no such key; write {part}.import")
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
        if key not in (*UNITS, PATIENCE) and "/" not in key:
            raise UserError(f"stop.{key}: is neither a counter nor a metric{suggest(key, (*UNITS, PATIENCE))}")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"stop.{key}: must be a finite number, not {value}")
        if key in (*UNITS, PATIENCE) and value < 1:
            raise UserError(f"stop.{key}: must be at least 1, not {value}")
        if key in (*UNITS, PATIENCE) and value != int(value):
            raise UserError(f"stop.{key}: must be a whole number, not {value}")
    if not any(key in UNITS for key in stop):
        raise UserError(f"stop: set a budget with one of {', '.join(UNITS)} so that the run ends")


def _check_intervals(tree: Mapping[str, Any]) -> None:
    for part in ("evaluate", "checkpoint", "tracking"):
        every = tree[part].get("every") if isinstance(tree.get(part), Mapping) else None
        if every is not None and not isinstance(every, bool):  # `validate` has a sentence for booleans
            Interval.parse(str(every), f"{part}.every")
