"""What `rayloom list` and `rayloom explain` print; only an import path, or a family's component, imports torch."""

from __future__ import annotations

import dataclasses
import functools
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

from rayloom.components import Kinds
from rayloom.config.documentation import first_line, marked, marked_path, settings, summary
from rayloom.config.import_path import import_object, settings_of, suggest
from rayloom.config.kinds import FAMILY_TABLES, TABLES
from rayloom.config.schema import RunConfig
from rayloom.config.validation import kinds_of
from rayloom.errors import UserError

WIDTH = 80


def rows(table: Mapping[str, str], indent: int = 2) -> str:
    """Return names and texts as two columns, in 80 characters; long texts go on below themselves."""
    column = min(28, max((len(name) for name in table), default=0)) + indent + 2
    lines = []
    for name, text in table.items():
        head = f"{' ' * indent}{name}".ljust(column)
        if len(head) > column:  # a name that is longer than the column has a line of its own
            lines.append(head)
            head = " " * column
        wrapped = textwrap.wrap(text, WIDTH - column) or [""]
        lines += [f"{head}{wrapped[0]}".rstrip(), *(" " * column + line for line in wrapped[1:])]
    return "\n".join(lines)


def kinds_with_summaries(of: str) -> dict[str, str]:
    """Return one line about each component of a kind."""
    if of in FAMILY_TABLES:
        return marked(FAMILY_TABLES[of], of)
    if of == "algorithm":
        return {path: summary(path) for path in sorted(set(_shipped_algorithms().values()))}
    kinds = TABLES[of]
    return {name: _summary(kinds, name) for name in kinds.shipped}


def known_kinds() -> tuple[str, ...]:
    """Return what `rayloom list` takes."""
    return ("config", *TABLES, *FAMILY_TABLES)


def configs_by_folder() -> dict[str, dict[str, str]]:
    """Return {folder below configs/: {config: import path of its algorithm}} without importing any algorithm."""
    from rayloom.config.load import config_folder, shipped_configs

    paths = _shipped_algorithms()
    folders: dict[str, dict[str, str]] = {}
    for name, path in shipped_configs().items():
        folder = path.parent.relative_to(config_folder()).as_posix()
        folders.setdefault(folder, {})[name] = paths[name]
    return dict(sorted(folders.items()))


@functools.cache
def _shipped_algorithms() -> dict[str, str]:
    from rayloom.config.load import shipped_configs

    return {name: _algorithm_of(path) for name, path in shipped_configs().items()}


def _algorithm_of(path: Path) -> str:
    """Return the import path of a shipped config's algorithm.

    The C parser is ten times as fast as what reads strangers' files, with which this list would take a second.
    """
    import yaml

    from rayloom.config.load import read_tree

    tree = yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    found = tree.get("algorithm", {}).get("import")
    return str(found or read_tree(path)["algorithm"]["import"])


def _summary(kinds: Kinds, name: str) -> str:
    config = kinds.shipped[name].config
    return first_line(config.__doc__) if config else summary(kinds.shipped[name].path)


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What is known of a name."""

    name: str
    summary: str
    type: str | None = None
    default: str | None = None
    settings: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    kinds: dict[str, str] = dataclasses.field(default_factory=dict)

    def text(self) -> str:
        """Return it for people."""
        lines = [self.name, *textwrap.wrap(self.summary, WIDTH - 2, initial_indent="  ", subsequent_indent="  ")]
        if self.type is not None:
            lines.append(f"  {self.type}" + ("" if self.default is None else f", default {self.default}"))
        if self.settings:
            lines += ["", *self._setting_lines()]
        if self.kinds:
            lines += ["", rows(_together(self.kinds))]
        return "\n".join(lines)

    def _setting_lines(self) -> Iterator[str]:
        for name, setting in self.settings.items():
            default = "required" if setting["default"] is None else f"default {setting['default']}"
            yield from textwrap.wrap(
                f"{name}: {setting['type']}, {default}", WIDTH - 2, initial_indent="  ", subsequent_indent="      "
            )
            yield from textwrap.wrap(setting["meaning"], WIDTH - 6, initial_indent="      ", subsequent_indent="      ")


def _together(kinds: Mapping[str, str]) -> dict[str, str]:
    """Return the texts of kinds, once for those that have the same."""
    return {", ".join(kind for kind in kinds if kinds[kind] == text): text for text in dict.fromkeys(kinds.values())}


def explain(name: str) -> Explanation:
    """Explain a key of the config, a kind of component, one component, or what lies at an import path."""
    if ":" in name:
        return _explain_import(name)
    of, _, kind = name.partition(".")
    if name in known_kinds() and name != "config" and name not in RunConfig.__dataclass_fields__:
        return Explanation(name, _meaning_of(of), kinds=kinds_with_summaries(of))
    if of in FAMILY_TABLES and kind in marked(FAMILY_TABLES[of], of):
        path = marked_path(FAMILY_TABLES[of], of, kind)
        return Explanation(name, summary(path), settings=_settings(import_object(path, name).Config))
    if of in TABLES and kind in TABLES[of].shipped:
        return Explanation(name, _summary(TABLES[of], kind), settings=_settings(TABLES[of].config(kind)))
    return _explain_key(name)


def _meaning_of(of: str) -> str:
    own = TABLES[of].own if of in TABLES else "a component of your own"
    return f'One of these, or one of your own by import: "module:Name": {own}.'


def _explain_import(path: str) -> Explanation:
    found = import_object(path, "explain")
    foreign = [kinds for kinds in TABLES.values() if kinds.keywords and _derives(found, kinds)]
    config = settings_of(foreign[0], found, "explain") if foreign else getattr(found, "Config", found)
    if not dataclasses.is_dataclass(config):
        raise UserError(f"{path} is no component: it has no Config beside it")
    return Explanation(path, first_line(found.__doc__), settings=_settings(config))


def _derives(found: Any, kinds: Kinds) -> bool:
    return isinstance(found, type) and kinds.base is not None and issubclass(found, import_object(kinds.base, kinds.of))


def _settings(config: Any) -> dict[str, dict[str, Any]]:
    return {name: dataclasses.asdict(setting) for name, setting in settings(config).items() if name != "kind"}


def _explain_key(key: str) -> Explanation:
    """Explain a dotted key of the config."""
    owner: Any = RunConfig
    parts = key.split(".")
    for index, part in enumerate(parts):
        fields = settings(owner)
        if part not in fields:
            known = [".".join([*parts[:index], name]) for name in fields]
            if index == 0:
                known += [*known_kinds(), *(f"{of}.{name}" for of in TABLES for name in TABLES[of].shipped)]
            word = ".".join(parts[: index + 1]) if index else key
            raise UserError(f"there is no {key!r}{suggest(word, known)}")
        hint = get_type_hints(owner, include_extras=True)[part]
        kinds = kinds_of(hint) or (TABLES.get(part) if index == 0 else None)
        rest = parts[index + 1 :]
        if kinds is not None:
            return _explain_component(key, kinds, rest, fields[part])
        options = [option for option in (hint, *get_args(hint)) if isinstance(option, type)]
        nested = [option for option in options if dataclasses.is_dataclass(option)]
        if not rest:
            inner = _settings(nested[0]) if nested else {}
            default = None if nested else fields[part].default
            return Explanation(key, fields[part].meaning, None if inner else fields[part].type, default, inner)
        if not nested:
            raise UserError(f"{'.'.join(parts[: index + 1])} has no settings; explain it alone")
        owner = nested[0]
    raise AssertionError("a key has at least one part")


def _explain_component(key: str, kinds: Kinds, rest: list[str], field: Any) -> Explanation:
    """Explain a key that names a component, or a setting of those kinds that have it."""
    if not rest:
        return Explanation(key, field.meaning, kinds.of, field.default, kinds=kinds_with_summaries(kinds.of))
    found = {}
    for kind in kinds.shipped:
        setting = settings(kinds.config(kind)).get(rest[0])
        if setting is not None:
            default = "required" if setting.default is None else f"default {setting.default}"
            found[kind] = f"{setting.type}, {default}. {setting.meaning}"
    if not found or len(rest) > 1:
        names = {name for kind in kinds.shipped for name in settings(kinds.config(kind))}
        raise UserError(f"no {kinds.of} has {'.'.join(rest)!r}{suggest(rest[0], sorted(names))}")
    return Explanation(key, f"A setting of these kinds of {kinds.of}:", kinds=found)
