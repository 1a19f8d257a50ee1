"""How our player of one game thinks: the batched search with a single tree, in portions that a clock can stop.

The tree is kept from move to move where both players follow it. A pass of the opponent is part of the position: the
network sees it, and the search gives a second pass the exact value of the game's end.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from rayloom_agents.alphago.gtp.board import Board
from rayloom_agents.alphago.gtp.coordinates import RESIGN
from rayloom_agents.alphago.search import Infer, Search, SearchSettings

ROOM = 20_000
"""Positions of an analysis that is not stopped."""
_LONGEST_LINE = 20
"""Moves of a principal variation."""


@dataclass(frozen=True)
class Candidate:
    """One move that the search has looked at."""

    action: int
    visits: int
    win_rate: float
    """Mean value for whose turn it is, as a share of games won."""
    prior: float
    """The network's share of it."""
    line: list[int]
    """The principal variation, from this move on."""

    @property
    def lower_bound(self) -> float:
        """Lower end of the win rate's 95 % interval, were the visits independent games."""
        spread = math.sqrt(self.win_rate * (1 - self.win_rate) / max(1, self.visits))
        return max(0.0, self.win_rate - 1.96 * spread)


class Thinker:
    """Searches from the position of a board. Not thread-safe."""

    def __init__(self, board: Board, infer: Infer, settings: SearchSettings, resign_below: float | None = None) -> None:
        """`resign_below`: the win rate under which it gives up, once there have been as many plies as the board has
        lines; None: never."""
        self.board, self.resign_below, self.simulations = board, resign_below, settings.simulations
        self._infer = infer
        # Without noise and by PUCT alone: sequential halving must know beforehand how long it may think.
        room = max(ROOM, settings.simulations)
        self._settings = replace(settings, method="puct", simulations=room)
        self._search = Search(board.game, 1, self._settings)
        self._generator = np.random.default_rng(0)  # nothing is drawn without noise

    def forget(self) -> None:
        """Begin with a new tree."""
        self._search.forget(np.arange(1))

    def follow(self, action: int) -> None:
        """Make the position after `action` the root; it was played by whose turn it was at the root."""
        self._search.follow(np.array([action]))

    def search(self, visits: int) -> None:
        """Go on searching until the root has so many visits, or there is no room left."""
        self._search.run(self._infer, self.board.state, self._generator, simulations=np.array([visits]))

    def visits(self) -> int:
        """Return the root's visits."""
        return int(self._search.tree.visits[0, 0].sum()) if self._search.tree.size[0] else 0

    def portions(self, until: Callable[[], bool], most: int | None = None) -> Iterator[None]:
        """Search in growing portions, at least one, until `until()` or the root has `most` visits; yield after each."""
        most = self._settings.simulations if most is None else min(most, self._settings.simulations)
        portion = self._settings.leaves
        while True:
            began = time.perf_counter()
            before = self.visits()
            self.search(min(most, before + portion))
            yield
            if until() or self.visits() >= most or self.visits() == before:
                return
            if time.perf_counter() - began < 0.05:
                portion *= 2

    def choose(self, seconds: float | None = None) -> tuple[int, float]:
        """Return what whose turn it is should play (an action or RESIGN), and the win rate that the search found.

        `seconds`: how long it may think; the simulations of the settings are the limit in any case.
        """
        ends = math.inf if seconds is None else time.perf_counter() + seconds
        if seconds is None:
            self.search(self.simulations)
        else:
            for _ in self.portions(lambda: time.perf_counter() >= ends, self.simulations):
                pass
        best = self.candidates()[0]
        long_enough = len(self.board.moves) >= self.board.size
        if self.resign_below is not None and long_enough and best.win_rate < self.resign_below:
            return RESIGN, best.win_rate
        return best.action, best.win_rate

    def win_rate(self) -> float:
        """Return the root's mean value for whose turn it is, as a share of games won."""
        tree = self._search.tree
        total = float(tree.value[0, 0]) + float(tree.value_sum[0, 0].sum())
        return (total / (1 + int(tree.visits[0, 0].sum())) + 1) / 2

    def candidates(self) -> list[Candidate]:
        """Return the moves that have been visited, the one to play first; the search must have begun."""
        tree = self._search.tree
        visits = tree.visits[0, 0]
        found = []
        for action in sorted(np.flatnonzero(visits).tolist(), key=lambda each: (-int(visits[each]), each)):
            mean = float(tree.value_sum[0, 0, action]) / int(visits[action])
            prior = float(tree.prior[0, 0, action])
            found.append(Candidate(action, int(visits[action]), (mean + 1) / 2, prior, self._line(action)))
        return found

    def _line(self, first: int) -> list[int]:
        """Return the most visited actions from the root's action `first` on."""
        tree, line = self._search.tree, [first]
        node = int(tree.child[0, 0, first])
        while node >= 0 and len(line) < _LONGEST_LINE and tree.visits[0, node].any():
            action = int(tree.visits[0, node].argmax())
            line.append(action)
            node = int(tree.child[0, node, action])
        return line
