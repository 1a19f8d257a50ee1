"""The search space: which keys of a config a study varies, and what a trial's config becomes.

Keys are dotted config keys, as in overrides. Each is one of

    learner.optimizer.learning_rate: {log: [1.0e-5, 1.0e-2]}          # a float, uniform on a log scale
    algorithm.l2: {float: [0.0, 0.1], step: 0.01}                     # step is optional
    learner.batch_size: {int: [16, 256], log: true}                   # step or log are optional
    learner.optimizer.kind: [adam, sgd]                               # short for {choice: [adam, sgd]}
    algorithm.hidden_sizes: {list: {length: {int: [1, 3]}, item: {choice: [32, 64, 128]}}}

`when: {KEY: VALUE or list of values}` beside any of them varies a key only where other keys of the space have these
values, and leaves it alone elsewhere. `transform` beside a number gives the config 1 - x (one_minus), 2**x
(power_of_two) or 10**x (power_of_ten) for the sampled x. Choices may be any YAML value.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rayloom.config.import_path import suggest
from rayloom.config.load import from_tree
from rayloom.config.schema import RunConfig
from rayloom.config.search import SearchConfig
from rayloom.config.validation import plain
from rayloom.errors import UserError
from rayloom.search.domains import (
    Categorical,
    Choice,
    Domain,
    Leaf,
    ListOf,
    Numeric,
    Point,
    Range,
    answers,
    parse_domain,
    same,
)

__all__ = ["Assignment", "Categorical", "Leaf", "Numeric", "Space", "apply"]

GRID_LIMIT = 1_000_000
"""Most points of a grid."""
_FIXED = ("name", "output", "stop", "tracking", "search", "cluster", "checkpoint", "algorithm.import")
"""Keys, with all below them, that are the study's own or would make its trials incomparable."""


@dataclass(frozen=True)
class Assignment:
    """What one trial got."""

    parameters: dict[str, Any]
    """Leaf name to value, as the sampler sees it."""
    values: dict[str, Any]
    """Config key to value, as the config gets it."""


@dataclass(frozen=True)
class SpaceEntry:
    """One key of the space."""

    key: str
    domain: Domain
    when: Mapping[str, tuple[Any, ...]]
    """Other keys and the values that they must have for this key to be varied."""

    @property
    def where(self) -> str:
        """The start of an error sentence."""
        return f"search.space.{self.key}"

    def active(self, values: Mapping[str, Any]) -> bool:
        """Return whether the conditions hold; a key that is not varied itself fulfils none."""
        return all(
            parent in values and any(same(values[parent], wanted) for wanted in allowed)
            for parent, allowed in self.when.items()
        )


@dataclass(frozen=True)
class Space:
    """The keys of a search space, each behind the keys that it depends on."""

    entries: tuple[SpaceEntry, ...]

    @classmethod
    def parse(cls, tree: Mapping[str, Any]) -> Space:
        """Read a space; a UserError names the key with the first mistake."""
        if not tree:
            raise UserError("search.space: name at least one key to vary, as learner.optimizer.learning_rate")
        for key in tree:
            _check_key(key, tree)
        domains = {key: parse_domain(item, f"search.space.{key}") for key, item in tree.items()}
        entries = {
            key: SpaceEntry(key, domain, _parse_when(key, tree[key], domains)) for key, domain in domains.items()
        }
        space = cls(_ordered(entries))
        for entry in space.entries:
            space._allowed(entry)
        names: set[str] = set()
        for leaf in space.leaves:
            if leaf.name in names:
                raise UserError(f"search.space.{leaf.name}: a part of a list has the same name; rename the key")
            names.add(leaf.name)
        return space

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        """Every parameter that a sampler may be asked for, in the order of the questions."""
        return tuple(leaf for entry in self.entries for leaf in entry.domain.leaves(entry.key))

    @property
    def conditional(self) -> bool:
        """Whether any parameter is not always there."""
        return self._sometimes() is not None

    def assign(self, suggest: Callable[[Leaf], Any]) -> Assignment:
        """Ask for the active parameters, in a fixed order; `suggest` returns a value as the sampler sees it."""
        assignment = Assignment({}, {})

        def ask(leaf: Leaf) -> Any:
            value = suggest(leaf)
            if isinstance(leaf, Numeric):
                value = _number(leaf, value)
            assignment.parameters[leaf.name] = value
            return value

        for entry in self.entries:
            if entry.active(assignment.values):
                assignment.values[entry.key] = entry.domain.draw(entry.key, ask)
        return assignment

    def grid(self) -> list[Point]:
        """Return every active combination once, as leaf name to value, the last key changing fastest."""
        for entry in self.entries:
            entry.domain.check_grid(entry.where)
        least = 1  # keys that are always varied multiply, and every other key is varied at some point
        for entry in self.entries:
            least = max(least, int(entry.domain.size)) if entry.when else least * int(entry.domain.size)
        points = list(itertools.islice(self._walk(0, {}, {}), GRID_LIMIT + 1)) if least <= GRID_LIMIT else []
        if not 0 < len(points) <= GRID_LIMIT:
            raise UserError(
                f"search.space: the grid has more than {GRID_LIMIT:,} points; leave out keys or values, "
                "or use another sampler"
            )
        return points

    def check(self, config: RunConfig) -> None:
        """Refuse a key that the config lacks, and a choice or an end of a range that it does not take."""
        extremes = {entry.key: entry.domain.extremes(entry.key) for entry in self.entries}
        for entry in self.entries:
            for above in self._values_above(entry):
                for extreme in extremes[entry.key]:
                    first = {key: points[0] for key, points in extremes.items()}
                    self._check_point(config, entry, above, {**first, entry.key: extreme})

    def check_sampler(self, settings: SearchConfig) -> None:
        """Refuse a sampler that cannot handle this space, and settings that contradict each other."""
        sampler = settings.sampler
        sometimes = self._sometimes()
        if sampler in ("gp", "cmaes", "qmc") and sometimes:
            raise UserError(f"search.sampler: {sampler} cannot handle {sometimes}, which is not always varied; use tpe")
        chosen = next((leaf.name for leaf in self.leaves if isinstance(leaf, Categorical)), None)
        if sampler in ("cmaes", "qmc") and chosen:
            raise UserError(f"search.sampler: {sampler} cannot handle the choices of {chosen}; use tpe or gp")
        if sampler == "grid":
            self.grid()
        elif settings.trials is None:
            raise UserError(f"search.trials: say how many trials {sampler} may propose (only grid ends by itself)")
        _check_metrics(settings)

    def _sometimes(self) -> str | None:
        """Return the name of a parameter that is not always there."""
        for entry in self.entries:
            domain = entry.domain
            if entry.when or (isinstance(domain, ListOf) and domain.varying):
                return entry.key if entry.when else domain.leaves(entry.key)[-1].name
        return None

    @functools.cached_property
    def _parents(self) -> frozenset[str]:
        """Keys on which others depend."""
        return frozenset(parent for entry in self.entries for parent in entry.when)

    def _walk(self, index: int, values: dict[str, Any], point: Point) -> Iterator[Point]:
        """Yield the grid's points that begin with what the first `index` entries got."""
        if index == len(self.entries):
            yield point
            return
        entry = self.entries[index]
        if not entry.active(values):
            yield from self._walk(index + 1, values, point)
            return
        for part in entry.domain.points(entry.key):
            drawn = {entry.key: entry.domain.draw(entry.key, answers(part))} if entry.key in self._parents else {}
            yield from self._walk(index + 1, {**values, **drawn}, {**point, **part})

    def _allowed(self, entry: SpaceEntry) -> dict[str, tuple[Any, ...]]:
        """Return the values that every key above an entry, however far, may have for the entry to be varied."""
        known = {other.key: other for other in self.entries}
        allowed: dict[str, tuple[Any, ...]] = {}
        waiting, seen = [entry], {entry.key}
        while waiting:
            for parent, wanted in (current := waiting.pop()).when.items():
                before = allowed.get(parent, wanted)
                allowed[parent] = tuple(value for value in before if any(same(value, other) for other in wanted))
                if not allowed[parent]:
                    raise UserError(
                        f"{entry.where}.when: {current.key} and other keys want different values of {parent}"
                    )
                if parent not in seen:
                    seen.add(parent)
                    waiting.append(known[parent])
        return allowed

    def _values_above(self, entry: SpaceEntry) -> Iterator[dict[str, Any]]:
        """Yield values of the keys above an entry that let it be varied; each value that they may have occurs."""
        allowed = self._allowed(entry)
        for index in range(max((len(values) for values in allowed.values()), default=1)):
            yield {key: values[min(index, len(values) - 1)] for key, values in allowed.items()}

    def _check_point(
        self, config: RunConfig, entry: SpaceEntry, above: Mapping[str, Any], points: Mapping[str, Point]
    ) -> None:
        """Validate the config of one trial; `above` has the values of the keys on which the entry depends."""
        values: dict[str, Any] = {}
        for other in self.entries:
            if other.key in above:
                values[other.key] = above[other.key]
            elif other.active(values):
                values[other.key] = other.domain.draw(other.key, answers(points[other.key]))
        tree = apply(config, values)
        try:
            from_tree(tree)
        except UserError as error:
            raise UserError(_blame(str(error), entry.key, values)) from None


def apply(config: RunConfig, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tree of a trial's config: the dotted keys set to their values, whole, and no search part."""
    tree = config.to_tree()
    tree["search"] = None
    # Kinds first, which begin with their own defaults, then what else is varied of the kind.
    for key, value in sorted(values.items(), key=lambda item: not _chooses(item[0])):
        node = tree
        *parts, last = key.split(".")
        for index, part in enumerate(parts):
            if node.get(part) is None:
                node[part] = {}
            node = node[part]
            if not isinstance(node, dict):
                whole = ".".join(parts[: index + 1])
                raise UserError(f"search.space.{key}: {whole} is not a mapping; vary {whole} as a whole")
        if _chooses(key) and node.get(last) != value:
            node.clear()
        node[last] = plain(value)
    return tree


def _chooses(key: str) -> bool:
    """Return whether a key says which component another one names."""
    return key.rpartition(".")[2] in ("kind", "import")


def _blame(message: str, key: str, values: Mapping[str, Any]) -> str:
    """Return the sentence about a refused trial, under the key of the space that the refusal speaks of."""
    refused = message.partition(":")[0]
    for other in values:
        if f"{refused}.".startswith(f"{other}.") or other.startswith(f"{refused}."):
            key = other
    if refused == key:
        return f"search.space.{message}"
    return f"search.space.{key}: the value {values[key]!r} does not fit: {message}"


def _check_key(key: Any, tree: Mapping[str, Any]) -> None:
    where = f"search.space.{key}"
    if not isinstance(key, str) or not all(key.split(".")):
        raise UserError(f"{where}: a key must be dotted words, as learner.batch_size, not {key!r}")
    for fixed in _FIXED:
        if f"{key}.".startswith(f"{fixed}.") or fixed.startswith(f"{key}."):
            raise UserError(f"{where}: a search cannot vary {fixed}; leave the key out")
    for other in tree:
        if key.startswith(f"{other}."):
            raise UserError(f"{where}: lies in {other}, which the space varies as a whole; keep one of them")


def _parse_when(key: str, tree: Any, domains: Mapping[str, Domain]) -> dict[str, tuple[Any, ...]]:
    """Return the parents of a key and the values that each must have."""
    if not isinstance(tree, Mapping) or "when" not in tree:
        return {}
    conditions, where = tree["when"], f"search.space.{key}.when"
    if not isinstance(conditions, Mapping) or not conditions:
        raise UserError(f"{where}: write {{KEY: VALUE}} with keys of the space, not {conditions!r}")
    when = {}
    for parent, wanted in plain(conditions).items():
        domain = domains.get(parent)
        if domain is None or parent == key:
            others = [other for other in domains if other != key]
            raise UserError(f"{where}: {parent} is not another key of the space{suggest(str(parent), others)}")
        if not isinstance(domain, Choice) and not (isinstance(domain, Range) and domain.kind == "int"):
            raise UserError(f"{where}: only a choice or an int can be a condition, which {parent} is not")
        whole = domain.includes(wanted) or not isinstance(wanted, list) or not wanted
        when[parent] = (wanted,) if whole else tuple(wanted)
        for value in when[parent]:
            if not domain.includes(value):
                raise UserError(f"{where}: {parent} never becomes {value!r}; write one of its own values")
    return when


def _ordered(entries: Mapping[str, SpaceEntry]) -> tuple[SpaceEntry, ...]:
    """Return the entries in the order written, but each behind those that it depends on."""
    ordered: dict[str, SpaceEntry] = {}
    while len(ordered) < len(entries):
        ready = [key for key, entry in entries.items() if key not in ordered and entry.when.keys() <= ordered.keys()]
        if not ready:
            stuck = [key for key in entries if key not in ordered]
            raise UserError(f"search.space.{stuck[0]}.when: the conditions of {', '.join(stuck)} go in a circle")
        ordered[ready[0]] = entries[ready[0]]
    return tuple(ordered.values())


def _number(leaf: Numeric, value: Any) -> float:
    """Return what a sampler chose as a plain int or float."""
    number = int(value) if leaf.kind == "int" else float(value)
    if number != value:
        raise ValueError(f"{leaf.name} must be a whole number, not {value!r}")
    return number


def _check_metrics(settings: SearchConfig) -> None:
    """Refuse what does not work with several metrics."""
    metrics = (settings.metric,) if isinstance(settings.metric, str | None) else settings.metric
    if len(set(metrics)) < len(metrics):
        raise UserError("search.metric: a metric stands twice; keep one of them")
    if isinstance(settings.direction, tuple) and len(settings.direction) != len(metrics):
        raise UserError(f"search.direction: write {len(metrics)} directions, one for each of search.metric")
    if len(metrics) > 1 and settings.pruner != "none":
        raise UserError(
            "search.pruner: only trials with a single metric can be pruned; write none or one search.metric"
        )
    if len(metrics) > 1 and settings.sampler == "cmaes":
        raise UserError("search.sampler: cmaes handles a single metric; use tpe or gp, or write one search.metric")
