"""Games in which a number of own stones in a row wins, in NumPy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rayloom_agents.alphago.games.game import Game


class LineState(NamedTuple):
    """N games."""

    board: NDArray[np.int8]
    """[N, rows * columns]: 1 the first player's stones, -1 the second's, 0 none."""
    ply: NDArray[np.int32]
    """[N]: stones that were played."""
    winner: NDArray[np.int8]
    """[N]: 1 or -1 once somebody has won."""


def lines_of(rows: int, columns: int, length: int) -> NDArray[np.int64]:
    """Return all straight lines of `length` points on a board [L, length]."""
    found = []
    for row in range(rows):
        for column in range(columns):
            for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
                last_row, last_column = row + down * (length - 1), column + right * (length - 1)
                if last_row < rows and 0 <= last_column < columns:
                    found.append([(row + i * down) * columns + column + i * right for i in range(length)])
    return np.array(found)


class LineGame(Game):
    """Common part; a subclass says where stones may go."""

    num_planes = 3
    """Own stones, the opponent's, whether the mover is the first player."""

    def __init__(self, rows: int, columns: int, length: int, num_actions: int) -> None:
        self.rows, self.columns, self.num_actions = rows, columns, num_actions
        self.max_plies = rows * columns
        self.lines = lines_of(rows, columns, length)
        self._length = length

    def start(self, count: int) -> LineState:
        """Return empty boards."""
        board = np.zeros((count, self.rows * self.columns), np.int8)
        return LineState(board, np.zeros(count, np.int32), np.zeros(count, np.int8))

    def mover(self, state: LineState) -> NDArray[np.int8]:
        """Return the mover by the number of plies."""
        return np.where(state.ply % 2 == 0, 1, -1).astype(np.int8)

    def is_over(self, state: LineState) -> NDArray[np.bool_]:
        """Return where somebody has won or the board is full."""
        ended: NDArray[np.bool_] = (state.winner != 0) | (state.ply >= self.max_plies)
        return ended

    def place(self, state: LineState, games: NDArray[np.int64], points: NDArray[np.int64]) -> None:
        """Put the movers' stones on free points of the games named, and see who has won."""
        mover = self.mover(state)[games]
        state.board[games, points] = mover
        state.ply[games] += 1
        sums = state.board[games][:, self.lines].sum(axis=2, dtype=np.int64) * mover[:, None]
        state.winner[games] = np.where((sums == self._length).any(axis=1), mover, 0)

    def score(self, state: LineState) -> NDArray[np.float32]:
        """Return the winner."""
        return state.winner.astype(np.float32)

    def observe(self, state: LineState) -> NDArray[np.float32]:
        """Return own stones, the opponent's and whose turn it is."""
        mover = self.mover(state)
        side = state.board * mover[:, None]
        first = np.broadcast_to((mover == 1)[:, None], side.shape)
        planes = np.stack([side == 1, side == -1, first], axis=1).astype(np.float32)
        return planes.reshape(len(side), self.num_planes, self.rows, self.columns)
