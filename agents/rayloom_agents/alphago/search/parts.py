"""The games of a search in parts, one for each thread: compiled code runs without the interpreter lock.

What is done with one game does not depend on the part that it lies in, so that any number of threads grows the same
trees.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rayloom_agents.alphago.games.game import Game, Leaves, State, view
from rayloom_agents.alphago.search import tree as trees

Result = TypeVar("Result")
Item = TypeVar("Item")


@functools.cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, "tree-search")


def in_threads(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Return what `work` makes of each item, each in a thread of its own."""
    if len(items) == 1:
        return [work(items[0])]
    return list(_threads(len(items)).map(work, items))


def cut(count: int, parts: int) -> list[slice]:
    """Return at most `parts` slices of `count` things, about equally long."""
    parts = max(1, min(parts, count))
    bounds = [count * part // parts for part in range(parts + 1)]
    return [slice(low, high) for low, high in itertools.pairwise(bounds)]


class Part:
    """Some games of a search: their trees and the visits under way."""

    def __init__(self, game: Game, tree: trees.Tree, where: slice, leaves: int, depth: int) -> None:
        self.game, self.where = game, where
        self.tree = view(tree, where)
        shape = (where.stop - where.start, leaves)
        self._nodes = np.zeros((*shape, depth), np.int32)
        self._actions = np.zeros((*shape, depth), np.int64)
        self._lengths = np.full(shape, -1, np.int64)
        self._spare = game.start(1)
        self._leaves: NDArray[np.int64] | None = None

    def begin(self, state: State, rule: trees.Rule, done: NDArray[np.int64], wanted: NDArray[np.int64]) -> None:
        """Take what belongs to these games of the whole search's positions, rule and simulations done and wanted."""
        where = self.where
        self._state = view(state, where)
        self._rule = rule._replace(forced=rule.forced[where], gumbel=rule.gumbel[where], schedule=rule.schedule[where])
        self._done, self._wanted, self._leaves = done[where].copy(), wanted[where], None

    def descend(self) -> NDArray[Any] | None:
        """Send visits down all trees; return planes of the leaves that the network must judge, None for no visit."""
        trees.select(self.tree, self._rule, self._done, self._wanted, self._nodes, self._actions, self._lengths)
        flat = self._lengths.reshape(-1)
        leaves = np.flatnonzero(flat >= 0)
        if not len(leaves):
            self._leaves = None
            return None
        self._leaves = leaves
        count = self._lengths.shape[1]
        self._done += (self._lengths >= 0).sum(axis=1)
        lengths = flat[leaves]
        paths = np.ascontiguousarray(self._actions.reshape(len(flat), -1)[leaves, : int(lengths.max())])
        self._reached: Leaves = self.game.leaves(self._state, leaves // count, paths, lengths, self._spare, claims=True)
        return self._reached.planes

    def ascend(self, logits: NDArray[np.float32], values: NDArray[np.float32]) -> None:
        """Bring the judged leaves' values back; the rows belong to what `descend` returned."""
        if self._leaves is None:
            return
        reached = self._reached
        judged = np.where(reached.over, -1, np.cumsum(~reached.over) - 1)
        if not len(logits):
            logits, values = np.zeros((1, reached.legal.shape[1]), np.float32), np.zeros(1, np.float32)
        trees.back_up(
            self.tree, self._leaves, self._nodes, self._actions, self._lengths, judged, logits, values, reached.legal,
            reached.movers, reached.outcomes,
        )  # fmt: skip
        self._leaves = None
