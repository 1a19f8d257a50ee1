"""Connect Four: four in a row, stones fall to the lowest free point of a column. The first player can win."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayloom_agents.alphago.games.game import refuse
from rayloom_agents.alphago.games.lines import LineGame, LineState


class ConnectFour(LineGame):
    """Action `column` drops a stone; row 0 is the top."""

    def __init__(self) -> None:
        super().__init__(rows=6, columns=7, length=4, num_actions=7)

    def _stones(self, state: LineState) -> NDArray[np.int64]:
        """Return how many stones stand in each column [N, 7]."""
        counts: NDArray[np.int64] = (state.board.reshape(-1, self.rows, self.columns) != 0).sum(axis=1)
        return counts

    def legal(self, state: LineState) -> NDArray[np.bool_]:
        """Return the columns that have room."""
        free: NDArray[np.bool_] = (self._stones(state) < self.rows) & ~self.is_over(state)[:, None]
        return free

    def play(self, state: LineState, actions: NDArray[Any]) -> None:
        """Drop stones."""
        over, games = self.is_over(state), np.flatnonzero(actions >= 0)
        columns = np.minimum(actions[games], self.columns - 1)
        row = self.rows - 1 - self._stones(state)[games, columns]
        played = np.ones(len(actions), np.bool_)
        played[games] = ~over[games] & (row >= 0) & (actions[games] < self.columns)
        refuse(over, actions, played)
        self.place(state, games, row * self.columns + columns)

    def point_symmetries(self) -> NDArray[np.int64]:
        """Return the identity and the reflection of left and right."""
        points = np.arange(self.rows * self.columns)
        return np.stack([points, points.reshape(self.rows, self.columns)[:, ::-1].reshape(-1)])

    def symmetries(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return those of points and of columns."""
        columns = np.arange(self.columns)
        return self.point_symmetries(), np.stack([columns, columns[::-1]])
