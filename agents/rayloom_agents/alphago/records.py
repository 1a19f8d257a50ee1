"""Finished games as compact arrays: what a window of self-play keeps, and what a checkpoint holds of it.

Actions and the searches' policies alone: 1 million plies of 9x9 Go take less than 100 MB, where their planes would take
6 GB. What the network saw is found by playing the actions once more (`observe_plies`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rayloom_agents.alphago.games.game import Game
from rayloom_agents.alphago.search.parts import cut, in_threads


class Records(NamedTuple):
    """G games of R plies with K entries of policies above zero, the oldest game first."""

    lengths: NDArray[np.int32]
    """[G]: plies."""
    outcome: NDArray[np.float32]
    """[G]: 1 where the first player has won, -1, 0."""
    score: NDArray[np.float32]
    """[G]: the first player's lead."""
    komi: NDArray[np.float32]
    """[G]: what the second player got."""
    owners: NDArray[np.int8]
    """[G, points]: whose each was at the end; no points in games without owners."""
    action: NDArray[np.int16]
    """[R]"""
    full: NDArray[np.bool_]
    """[R]: whether the search was a full one."""
    value: NDArray[np.float16]
    """[R]: what the search found, for the mover."""
    entries: NDArray[np.uint16]
    """[R]: of the policy."""
    entry_action: NDArray[np.int16]
    """[K]"""
    entry_share: NDArray[np.float16]
    """[K]"""


def no_records(game: Game) -> Records:
    """Return none."""
    points = game.rows * game.columns if game.has_owners else 0
    number = np.zeros(0, np.float32)
    return Records(
        lengths=np.zeros(0, np.int32), outcome=number, score=number, komi=number, owners=np.zeros((0, points), np.int8),
        action=np.zeros(0, np.int16), full=np.zeros(0, np.bool_), value=np.zeros(0, np.float16),
        entries=np.zeros(0, np.uint16), entry_action=np.zeros(0, np.int16), entry_share=np.zeros(0, np.float16),
    )  # fmt: skip


def joined(parts: Sequence[Records]) -> Records:
    """Return all games in their order."""
    return Records(*(np.concatenate([part[field] for part in parts]) for field in range(len(Records._fields))))


def as_records(arrays: Mapping[str, Any]) -> Records:
    """Return the records in arrays by name."""
    return Records(**{name: np.asarray(arrays[name]) for name in Records._fields})


def games_of(records: Records, games: NDArray[np.bool_]) -> Records:
    """Return the games chosen by a mask [G]."""
    plies = np.repeat(games, records.lengths)
    kept = np.repeat(plies, records.entries)
    masks = [games] * 5 + [plies] * 4 + [kept] * 2
    arrays: Sequence[NDArray[Any]] = records
    return Records(*(array[mask] for array, mask in zip(arrays, masks, strict=True)))


def policy_entries(policies: NDArray[np.float16]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return policies [R, A] as counts [R], actions [K] and shares [K] of what is above zero."""
    rows, actions = np.nonzero(policies)
    counts = np.bincount(rows, minlength=len(policies)).astype(np.uint16)
    return counts, actions.astype(np.int16), policies[rows, actions]


class Window:
    """The latest plies of finished games, and batches of them."""

    def __init__(self, game: Game, threads: int = 1) -> None:
        self.game, self.threads = game, threads
        self.records = no_records(game)
        self._index()

    def __len__(self) -> int:
        """Return the plies that there are."""
        return len(self.records.action)

    def add(self, fresh: Sequence[Records], most: int) -> None:
        """Take more games, and forget the oldest ones that the latest `most` plies do not reach into."""
        self.records = joined([self.records, *fresh])
        later = np.cumsum(self.records.lengths[::-1])[::-1] - self.records.lengths  # plies of the games after each
        if len(later) and later[0] >= most:
            self.records = games_of(self.records, later < most)
        self._index()

    def restore(self, records: Records) -> None:
        """Keep these and no others."""
        self.records = records
        self._index()

    def _index(self) -> None:
        self._game_ends = np.cumsum(self.records.lengths, dtype=np.int64)
        self._entry_ends = np.cumsum(self.records.entries, dtype=np.int64)

    def rows(self, plies: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Return what the learner needs of `plies` [B], counted from the oldest.

        planes [B, C, rows, columns] in units of the game's `plane_scale`, policy [B, A], outcome [B], full [B] and, in
        games with owners, ownership [B, points] and score [B], all for the mover.
        """
        records = self.records
        games = np.searchsorted(self._game_ends, plies, side="right")
        first = self._game_ends[games] - records.lengths[games]
        planes, movers = self._observe(games, first, plies - first)
        found = {
            "planes": planes,
            "policy": self._policies(plies),
            "outcome": records.outcome[games] * movers,
            "full": records.full[plies].astype(np.float32),
        }
        if self.game.has_owners:
            found["ownership"] = (records.owners[games] * movers[:, None]).astype(np.float32)
            found["score"] = records.score[games] * movers
        return found

    def _policies(self, plies: NDArray[np.int64]) -> NDArray[np.float32]:
        counts = self.records.entries[plies].astype(np.int64)
        rows = np.repeat(np.arange(len(plies)), counts)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        at = np.repeat(self._entry_ends[plies] - counts, counts) + within
        policies = np.zeros((len(plies), self.game.num_actions), np.float32)
        policies[rows, self.records.entry_action[at]] = self.records.entry_share[at]
        totals = policies.sum(axis=1, keepdims=True)
        policies /= np.where(totals > 0, totals, 1)  # shares of 16 bits do not quite sum to 1
        return policies

    def _observe(
        self, games: NDArray[np.int64], first: NDArray[np.int64], before: NDArray[np.int64]
    ) -> tuple[NDArray[Any], NDArray[np.int8]]:
        """Play the first `before` [B] plies of `games` once more; return planes and movers."""
        longest = int(before.max(initial=0))
        at = np.minimum(first[:, None] + np.arange(longest), len(self.records.action) - 1)
        paths, komi = self.records.action[at].astype(np.int64), self.records.komi[games]

        def replay(rows: slice) -> tuple[NDArray[Any], NDArray[np.int8]]:
            state = self.game.start(rows.stop - rows.start)
            self.game.set_komi(state, komi[rows])
            found = self.game.leaves(
                state, np.arange(rows.stop - rows.start), np.ascontiguousarray(paths[rows]), before[rows],
                self.game.start(1),
            )  # fmt: skip
            return found.planes, found.movers

        parts = in_threads(replay, cut(len(games), self.threads))
        return np.concatenate([planes for planes, _ in parts]), np.concatenate([movers for _, movers in parts])
