"""Tic-tac-toe: three in a row on 3 x 3 points; a draw between players who make no mistake."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayloom_agents.alphago.games.game import refuse, square_symmetries
from rayloom_agents.alphago.games.lines import LineGame, LineState


class TicTacToe(LineGame):
    """Action `3 * row + column` puts a stone there."""

    def __init__(self) -> None:
        super().__init__(rows=3, columns=3, length=3, num_actions=9)

    def legal(self, state: LineState) -> NDArray[np.bool_]:
        """Return the free points."""
        free: NDArray[np.bool_] = (state.board == 0) & ~self.is_over(state)[:, None]
        return free

    def play(self, state: LineState, actions: NDArray[Any]) -> None:
        """Put stones."""
        over, games = self.is_over(state), np.flatnonzero(actions >= 0)
        points = np.minimum(actions[games], self.num_actions - 1)
        played = np.ones(len(actions), np.bool_)
        played[games] = ~over[games] & (state.board[games, points] == 0) & (actions[games] < self.num_actions)
        refuse(over, actions, played)
        self.place(state, games, points)

    def point_symmetries(self) -> NDArray[np.int64]:
        """Return turns and reflections."""
        return square_symmetries(3)
