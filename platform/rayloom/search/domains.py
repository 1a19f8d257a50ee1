"""What one key of a search space may become: a choice, a number, or a list of either.

A domain knows its leaves, the parameters that a sampler sees. Samplers see scalars only: a choice that is a list or a
mapping is named by its JSON, and a transform is applied after sampling.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from rayloom.config.import_path import suggest
from rayloom.config.validation import plain
from rayloom.errors import UserError

Transform = Literal["one_minus", "power_of_two", "power_of_ten"]
_EXPONENTS: dict[str, tuple[int, int]] = {"power_of_two": (2, 1000), "power_of_ten": (10, 300)}
"""Base, and the largest exponent whose power is a float either way."""
_OPTIONS: dict[str, tuple[str, ...]] = {
    "choice": ("when",),
    "int": ("step", "log", "transform", "when"),
    "float": ("step", "log", "transform", "when"),
    "log": ("transform", "when"),
    "list": ("when",),
}
_MAX_LENGTH = 1_000


@dataclass(frozen=True)
class Categorical:
    """A parameter with unordered choices."""

    name: str
    choices: tuple[str | int | float | bool | None, ...]


@dataclass(frozen=True)
class Numeric:
    """A number between `low` and `high`, both included; `high` lies on a step. Bounds and step of an int are ints."""

    name: str
    kind: Literal["int", "float"]
    low: float
    high: float
    step: float | None
    log: bool


Leaf = Categorical | Numeric
Ask = Callable[[Leaf], Any]
Point = dict[str, Any]
"""Leaf name to value, as a sampler sees it."""


@dataclass(frozen=True)
class Choice:
    """One of some values of any kind."""

    values: tuple[Any, ...]
    labels: tuple[str | int | float | bool | None, ...]

    @property
    def size(self) -> int:
        """Number of points."""
        return len(self.values)

    def leaves(self, name: str) -> tuple[Leaf, ...]:
        """Return the parameters that a sampler sees."""
        return (Categorical(name, self.labels),)

    def draw(self, name: str, ask: Ask) -> Any:
        """Return the value that the config gets; `ask` says what the sampler chose for a leaf."""
        label = ask(self.leaves(name)[0])
        return plain(self.values[self.labels.index(label)])

    def includes(self, value: Any) -> bool:
        """Return whether a draw can be this value."""
        return any(same(value, known) for known in self.values)

    def check_grid(self, where: str) -> None:
        """Refuse what has no grid; choices have one."""

    def points(self, name: str) -> Iterator[Point]:
        """Yield every point of a grid."""
        return ({name: label} for label in self.labels)

    def extremes(self, name: str) -> list[Point]:
        """Return the points that a config has to take for it to take all of them."""
        return [{name: label} for label in self.labels]


@dataclass(frozen=True)
class Range:
    """A number between two bounds, perhaps transformed."""

    kind: Literal["int", "float"]
    low: float
    high: float
    step: float | None
    log: bool
    transform: Transform | None

    @property
    def size(self) -> float:
        """Number of points; infinite without a step, and on a log scale, which no grid walks through."""
        if self.low == self.high:
            return 1
        step = 1 if self.step is None and self.kind == "int" else self.step
        if step is None or self.log:
            return math.inf
        return round((_exact(self.high) - _exact(self.low)) / _exact(step)) + 1

    def leaves(self, name: str) -> tuple[Leaf, ...]:
        """Return the parameter that a sampler sees."""
        return (Numeric(name, self.kind, self.low, self.high, self.step, self.log),)

    def draw(self, name: str, ask: Ask) -> float:
        """Return the value that the config gets, on the step's nearest readable number and transformed."""
        number = ask(self.leaves(name)[0])
        if self.step is not None and self.kind == "float":
            number = self._at(round((number - self.low) / self.step))
        return self._transformed(number)

    def includes(self, value: Any) -> bool:
        """Return whether a draw of an int can be this value."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if self.transform in _EXPONENTS:
            return any(self._transformed(self._at(index)) == value for index in range(int(self._steps) + 1))
        number = 1 - value if self.transform == "one_minus" else value
        return self.low <= number <= self.high and (number - self.low) % (self.step or 1) == 0

    def check_grid(self, where: str) -> None:
        """Refuse what has no grid: a UserError says how to get one."""
        if self.size == math.inf:
            remedy = "a grid cannot walk through a log scale; write choices" if self.log else "a grid needs a step here"
            raise UserError(f"{where}: {remedy}, or use another sampler")

    def points(self, name: str) -> Iterator[Point]:
        """Yield every point of a grid."""
        return ({name: self._at(index)} for index in range(int(self.size)))

    def extremes(self, name: str) -> list[Point]:
        """Return both ends, and a number between them that is whole only where all are."""
        if self.low == self.high:
            return [{name: self.low}]
        if self.kind == "int":
            return [{name: self.low}, {name: self.high}]
        between = self.low + (self.high - self.low) * 0.3819660112501051 if self.step is None else self._at(1)
        return [{name: number} for number in dict.fromkeys((self.low, between, self.high))]

    @property
    def _steps(self) -> float:
        """Steps between the bounds of an int, on a log scale too."""
        return (self.high - self.low) // (self.step or 1)

    def _at(self, index: int) -> float:
        if self.kind == "int":
            return self.low + index * (self.step or 1)
        return float(_exact(self.low) + index * _exact(self.step or 0.0))

    def _transformed(self, number: float) -> float:
        """Return the transformed number; decimal arithmetic keeps 1 - 0.01 at 0.99."""
        if self.transform is None:
            return number
        if self.transform == "one_minus":
            return 1 - number if self.kind == "int" else float(1 - _exact(number))
        base = _EXPONENTS[self.transform][0]
        if self.kind == "int" and self.low >= 0:
            return int(base ** int(number))
        return float(f"1e{int(number)}") if base == 10 and number == int(number) else float(base**number)


@dataclass(frozen=True)
class ListOf:
    """A list of so many items; its leaves are NAME/length and NAME/0, NAME/1, ..."""

    length: Range | int
    item: Choice | Range

    @property
    def _shortest(self) -> int:
        return self.length if isinstance(self.length, int) else int(self.length.low)

    @property
    def _longest(self) -> int:
        return self.length if isinstance(self.length, int) else int(self.length.high)

    @property
    def _lengths(self) -> Sequence[int]:
        """Every length of a grid."""
        step = 1 if isinstance(self.length, int) else int(self.length.step or 1)
        return range(self._shortest, self._longest + 1, step)

    @property
    def size(self) -> float:
        """Number of points."""
        if (isinstance(self.length, Range) and self.length.size == math.inf) or self.item.size == math.inf:
            return math.inf
        each = int(self.item.size)
        return sum(int(each**length) for length in self._lengths)

    @property
    def varying(self) -> bool:
        """Whether some of the leaves are not always there."""
        return self._shortest < self._longest

    def leaves(self, name: str) -> tuple[Leaf, ...]:
        """Return the parameters that a sampler sees, those of the longest list."""
        items = (leaf for index in range(self._longest) for leaf in self.item.leaves(f"{name}/{index}"))
        return (*(() if isinstance(self.length, int) else self.length.leaves(f"{name}/length")), *items)

    def draw(self, name: str, ask: Ask) -> list[Any]:
        """Return the list that the config gets; asks for as many items as the list has."""
        length = self.length if isinstance(self.length, int) else int(self.length.draw(f"{name}/length", ask))
        return [self.item.draw(f"{name}/{index}", ask) for index in range(length)]

    def includes(self, value: Any) -> bool:
        """Return whether a draw can be this value: no condition may rest on a list."""
        return False

    def check_grid(self, where: str) -> None:
        """Refuse what has no grid: a UserError says how to get one."""
        if isinstance(self.length, Range):
            self.length.check_grid(f"{where}.length")
        self.item.check_grid(f"{where}.item")

    def points(self, name: str) -> Iterator[Point]:
        """Yield every point of a grid, shorter lists first."""
        lengths = [{}] if isinstance(self.length, int) else self.length.points(f"{name}/length")
        for length, point in zip(self._lengths, lengths, strict=True):
            places = [list(self.item.points(f"{name}/{index}")) for index in range(length)]
            for items in itertools.product(*places):
                yield {name: value for part in (point, *items) for name, value in part.items()}

    def extremes(self, name: str) -> list[Point]:
        """Return the shortest and the longest list of each extreme item."""
        found: list[Point] = []
        for length in dict.fromkeys((self._shortest, self._longest)):
            base = {} if isinstance(self.length, int) else {f"{name}/length": length}
            for extreme in self.item.extremes(""):
                found.append({**base, **{f"{name}/{index}": extreme[""] for index in range(length)}})
        return found


Domain = Choice | Range | ListOf


def answers(point: Mapping[str, Any]) -> Ask:
    """Return the sampler that has only this point."""
    return lambda leaf: point[leaf.name]


def same(one: Any, other: Any) -> bool:
    """Return whether two plain values of a config are equal; true is not 1."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def parse_domain(tree: Any, where: str) -> Domain:
    """Read what a key may become, but for its condition; `where` stands at the start of every error sentence."""
    if isinstance(tree, list | tuple):
        tree = {"choice": tree}
    if not isinstance(tree, Mapping):
        raise UserError(f"{where}: write a list of choices or one of {', '.join(_OPTIONS)}, not {tree!r}")
    kind = _kind(tree, where)
    for option in tree:
        if option == "step" and kind == "log":
            raise UserError(f"{where}: a log scale has no step; leave step out or write float instead of log")
        if option != kind and option not in _OPTIONS[kind]:
            raise UserError(f"{where}.{option}: {kind} has no such option{suggest(str(option), _OPTIONS[kind])}")
    if kind == "choice":
        return _parse_choice(tree["choice"], where)
    return _parse_list(tree["list"], where) if kind == "list" else _parse_range(kind, tree, where)


def _kind(tree: Mapping[str, Any], where: str) -> str:
    """Return which kind of domain a mapping describes; `log` is a kind only where no other stands."""
    kinds = [kind for kind in _OPTIONS if kind in tree and kind != "log"]
    if len(kinds) > 1:
        raise UserError(f"{where}: write only one of {' and '.join(kinds)}")
    if kinds or "log" in tree:
        return kinds[0] if kinds else "log"
    words = [str(word) for word in tree if word not in ("step", "transform", "when")]
    if not words:
        raise UserError(f"{where}: say what it may become with one of {', '.join(_OPTIONS)}")
    raise UserError(f"{where}: there is no kind {words[0]!r}{suggest(words[0], _OPTIONS)}")


def _parse_choice(values: Any, where: str) -> Choice:
    if not isinstance(values, list | tuple) or not values:
        raise UserError(f"{where}: choices must be a list of at least one value, not {values!r}")
    labels: list[Any] = []
    for value in values:
        label = _label(value, where)
        if label in labels:  # true == 1 == 1.0 for a sampler too
            raise UserError(
                f"{where}: the choices {values[labels.index(label)]!r} and {value!r} are the same; drop one"
            )
        labels.append(label)
    return Choice(tuple(plain(value) for value in values), tuple(labels))


def _label(value: Any, where: str) -> str | int | float | bool | None:
    """Return the scalar that names a choice towards the sampler."""
    try:
        text = json.dumps(plain(value), allow_nan=False, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    except (TypeError, ValueError):
        raise UserError(f"{where}: the choice {value!r} must be plain data without infinities and NaN") from None
    return value if value is None or isinstance(value, str | int | float) else text


def _parse_range(kind: str, tree: Mapping[str, Any], where: str) -> Range:
    log = kind == "log" or tree.get("log", False)
    if not isinstance(log, bool):
        raise UserError(f"{where}.log: must be true or false, not {log!r}")
    bounds = tree[kind]
    if not isinstance(bounds, list | tuple) or len(bounds) != 2:
        raise UserError(f"{where}: {kind} needs two bounds [low, high], not {bounds!r}")
    whole = kind == "int"
    low, high = (_number(bound, whole, f"{where}: each bound") for bound in bounds)
    if low > high:
        raise UserError(f"{where}: the range from {low} to {high} is empty; swap the bounds")
    if log and low <= 0:
        raise UserError(f"{where}: a log scale needs positive bounds, not {low}")
    step = tree.get("step")
    if step is not None:
        step = _number(step, whole, f"{where}.step:")
        if log:
            raise UserError(f"{where}: a log scale has no step; leave out step or log")
        length = _exact(high) - _exact(low)
        if not 0 < _exact(step) <= length:
            raise UserError(f"{where}.step: must lie between 0 and the range's {float(length):g}, not {step}")
        top = _exact(low) + length // _exact(step) * _exact(step)
        high = int(top) if whole else float(top)
    transform = tree.get("transform")
    _check_transform(transform, low, high, where)
    return Range("int" if whole else "float", low, high, step, log, transform)


def _check_transform(transform: Any, low: float, high: float, where: str) -> None:
    known = ("one_minus", *_EXPONENTS)
    if transform is None or transform == "one_minus":
        return
    if not isinstance(transform, str) or transform not in _EXPONENTS:
        raise UserError(f"{where}.transform: there is no {transform!r}{suggest(str(transform), known)}")
    limit = _EXPONENTS[transform][1]
    if low < -limit or high > limit:
        raise UserError(f"{where}: {transform} takes exponents from -{limit} to {limit}, not {low} to {high}")


def _number(value: Any, whole: bool, what: str) -> float:
    """Return an int or a float; samplers hold both as floats, which are exact up to 2**53."""
    number = not isinstance(value, bool) and isinstance(value, int | float) and abs(value) < 1e300
    if not number or (whole and (value != int(value) or abs(value) > 2**53)):
        raise UserError(f"{what} must be {'a whole number' if whole else 'a finite number'}, not {value!r}")
    return int(value) if whole else float(value)


def _parse_list(tree: Any, where: str) -> ListOf:
    if not isinstance(tree, Mapping) or set(tree) != {"length", "item"}:
        raise UserError(
            f"{where}: list needs length and item and nothing else, as {{length: {{int: [1, 3]}}, item: ...}}"
        )
    length: Range | int
    if isinstance(tree["length"], int) and not isinstance(tree["length"], bool):
        length = shortest = longest = tree["length"]
    else:
        domain = parse_domain(_unconditional(tree["length"], f"{where}.length"), f"{where}.length")
        if not isinstance(domain, Range) or domain.kind != "int" or domain.transform:
            raise UserError(f"{where}.length: write a whole number or {{int: [low, high]}} without transform")
        length, shortest, longest = domain, int(domain.low), int(domain.high)
    if shortest < 0 or not 1 <= longest <= _MAX_LENGTH:
        raise UserError(f"{where}.length: must lie between 0 and {_MAX_LENGTH}, and above 0 for the longest list")
    item = parse_domain(_unconditional(tree["item"], f"{where}.item"), f"{where}.item")
    if isinstance(item, ListOf):
        raise UserError(f"{where}.item: lists of lists are not supported; write the inner lists as choices")
    return ListOf(length, item)


def _unconditional(tree: Any, where: str) -> Any:
    if isinstance(tree, Mapping) and "when" in tree:
        raise UserError(f"{where}.when: a condition belongs to the whole list; move it one level up")
    return tree


def _exact(number: float) -> Fraction:
    """Return the fraction that the shortest decimal form of a number stands for: 0.1 is a tenth."""
    return Fraction(repr(number))
