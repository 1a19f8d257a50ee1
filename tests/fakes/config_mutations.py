"""A seeded mutator of configs: what people mistype, and what would break a machine."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

Tree = dict[str, Any]
NUMBERS: tuple[Any, ...] = (
    *(0, -1, 1, 2, 3, 0.5, 1.0, -0.0, 1e-30, 1e9, 1e18, 1e308, 10**6, 10**12, 2**31, 2**63, 10**40),
    *(float("nan"), float("inf"), -float("inf")),
)
OTHERS: tuple[Any, ...] = (
    *(None, True, False, "", "x", "a\nb", "../..", "\x00", "é" * 300, "no:such", "os:system", [], {}, [1], {"a": 1}),
    *([[]], {"kind": "nothing"}, {"import": "os:system"}, {"import": "math:pi"}, {"kind": None}, "x" * 5000),
)


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [found for key, value in items for found in ((*path, key), *places(value, (*path, key)))]


def _at(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _put(tree: Tree, path: tuple[Any, ...], value: Any) -> None:
    _at(tree, path[:-1])[path[-1]] = value


def other_number(tree: Tree, path: tuple[Any, ...], chance: random.Random) -> None:
    _put(tree, path, chance.choice(NUMBERS))


def other_type(tree: Tree, path: tuple[Any, ...], chance: random.Random) -> None:
    _put(tree, path, copy.deepcopy(chance.choice(OTHERS)))


def left_out(tree: Tree, path: tuple[Any, ...], chance: random.Random) -> None:
    del _at(tree, path[:-1])[path[-1]]


def misspelt(tree: Tree, path: tuple[Any, ...], chance: random.Random) -> None:
    parent, key = _at(tree, path[:-1]), path[-1]
    if not isinstance(key, str):
        return other_type(tree, path, chance)
    place = chance.randrange(len(key) + 1)
    parent[key[:place] + chance.choice("xq_ ") + key[place + 1 :]] = parent.pop(key)
    return None


def added(tree: Tree, path: tuple[Any, ...], chance: random.Random) -> None:
    parent = _at(tree, path[:-1])
    if isinstance(parent, dict):
        parent[chance.choice(("kind", "import", "extra", 7, None, "a.b"))] = copy.deepcopy(chance.choice(OTHERS))
    else:
        parent.append(copy.deepcopy(chance.choice(OTHERS)))


def wrapped(tree: Tree, path: tuple[Any, ...], chance: random.Random) -> None:
    value = _at(tree, path)
    for _ in range(chance.choice((1, 1, 60, 120))):
        value = [value] if chance.random() < 0.5 else {"a": value}
    _put(tree, path, value)


def borrowed(tree: Tree, path: tuple[Any, ...], chance: random.Random) -> None:
    """Put there what stands elsewhere."""
    _put(tree, path, copy.deepcopy(_at(tree, chance.choice(places(tree)))))


def negated(tree: Tree, path: tuple[Any, ...], chance: random.Random) -> None:
    value = _at(tree, path)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return other_number(tree, path, chance)
    return _put(tree, path, chance.choice((-value, value * 10**6, value / 7, str(value), [value, value])))


MUTATIONS: tuple[Callable[..., None], ...] = (
    *(other_number, other_number, other_type, other_type, left_out, misspelt, added, wrapped, borrowed, negated),
)


def mutate(tree: Tree, chance: random.Random) -> tuple[Tree, str]:
    """Return a copy with one to three changes, and what they are."""
    tree, done = copy.deepcopy(tree), []
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        path = chance.choice(places(tree))
        mutation = chance.choice(MUTATIONS)
        mutation(tree, path, chance)
        done.append(f"{mutation.__name__} {'.'.join(map(str, path))}")
    return tree, ", ".join(done)
