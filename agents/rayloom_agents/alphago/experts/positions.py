"""Positions of recorded games, played again when they are asked for.

(game, ply) --the game's first plies--> state --observe--> planes;  the expert's action, who won, whose area it was
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rayloom.contract import Batch, Spec, TensorSpec
from rayloom.datasets import RowTable
from rayloom_agents.alphago.experts.records import GameTable
from rayloom_agents.alphago.games.game import take
from rayloom_agents.alphago.games.go import Go
from rayloom_agents.alphago.go.rules import GoState

_CHUNK = 1024


class Replay:
    """Plays the games of a table up to any of their plies. Thread-safe: nothing in it changes."""

    def __init__(self, games: GameTable, game: Go) -> None:
        """Play all games to their ends, for whose area every point was."""
        self.games, self.game = games, game
        ends = [self._end(np.arange(first, min(first + _CHUNK, len(games)))) for first in range(0, len(games), _CHUNK)]
        self._owners = np.concatenate([owners for owners, _ in ends])  # [G, size^2]: 1 Black's, -1 White's
        self._counted = np.concatenate([counted for _, counted in ends])  # [G]: it ended with two passes

    def _end(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
        state = self.state(numbers, self.games.lengths[numbers])
        return self.game.owners(state), self.game.is_over(state)

    def state(self, numbers: NDArray[Any], plies: NDArray[Any]) -> GoState:
        """Return the games `numbers` [B] after so many plies [B]."""
        # Long games first: whoever has no ply left lies behind, and is left out.
        order = np.argsort(-plies, kind="stable")
        actions = self.games.actions[numbers[order], : int(plies.max(initial=0))].astype(np.int64)
        state = self.game.start(len(numbers))
        state.komi[:] = self.games.komi[numbers[order]]
        left = np.searchsorted(-plies[order], -np.arange(actions.shape[1]), side="left")
        for ply, count in enumerate(left.tolist()):
            first: Any = slice(0, count)
            self.game.play(take(state, first), actions[:count, ply])  # views: playing changes `state`
        return take(state, np.argsort(order, kind="stable"))

    def rows(self, numbers: NDArray[Any], plies: NDArray[Any]) -> Batch:
        """Return the positions before the plies [B] of games [B]; the fields are those of `position_spec`."""
        state = self.state(numbers, plies)
        mover = self.game.mover(state).astype(np.float32)
        found = {
            "planes": self.game.observe(state),
            "action": self.games.actions[numbers, plies].astype(np.int64),
            "outcome": self.games.outcome[numbers] * mover,
            "ownership": self._owners[numbers].astype(np.float32) * mover[:, None],
            "counted": self._counted[numbers].astype(np.float32),
        }
        return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in found.items()}


def position_spec(game: Go) -> Spec:
    """Describe a position: planes [C, H, W] and the expert's `action`; `outcome` is 1 where the mover won the game, -1
    where it lost; `ownership` 1 at points that were the mover's area in the end, -1 at the opponent's; `counted` 1
    where the game was played to that end, so that `ownership` means something."""
    return {
        "planes": TensorSpec(shape=(game.num_planes, game.rows, game.columns), dtype=torch.float32),
        "action": TensorSpec(shape=(), dtype=torch.int64, num_values=game.num_actions),
        "outcome": TensorSpec(shape=(), dtype=torch.float32),
        "ownership": TensorSpec(shape=(game.rows * game.columns,), dtype=torch.float32),
        "counted": TensorSpec(shape=(), dtype=torch.float32),
    }


class PositionTable(RowTable):
    """Positions of some games by number: all of them, or one of each game."""

    def __init__(self, replay: Replay, chosen: NDArray[Any], plies: NDArray[Any] | None = None) -> None:
        """Take every ply of the games `chosen` that an expert has played, or of each of them the one in `plies`."""
        self.replay, self.chosen = replay, chosen
        if plies is None:
            first, last = replay.games.opening[chosen], replay.games.lengths[chosen]
            each = [np.arange(start, stop) for start, stop in zip(first.tolist(), last.tolist(), strict=True)]
            plies = np.concatenate([np.empty(0, np.int64), *each])
            chosen = np.repeat(chosen, last - first)
        self._games, self._plies = chosen, plies

    def __len__(self) -> int:
        """Return the number of positions."""
        return len(self._games)

    def rows(self, indices: Tensor) -> Batch:
        """Return the positions."""
        numbers = indices.numpy()
        return self.replay.rows(self._games[numbers], self._plies[numbers])


def one_ply_each(games: GameTable, chosen: NDArray[Any], draws: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return for each of the games `chosen` [G] a ply that an expert has played, by a draw in [0, 1) [G]."""
    first, last = games.opening[chosen], games.lengths[chosen]
    plies: NDArray[np.int64] = (first + draws * (last - first)).astype(np.int64)
    return plies
