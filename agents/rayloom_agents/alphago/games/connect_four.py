"""Connect Four: four in a row, stones fall to the lowest free point of a column. The first player can win."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayloom_agents.alphago.compiled import compiled
from rayloom_agents.alphago.games.game import Leaves, refuse
from rayloom_agents.alphago.games.lines import LineGame, LineState

ROWS, COLUMNS = 6, 7


@compiled
def lowest_row(board: NDArray[np.int8], column: int) -> int:
    """Return the row in which a stone comes to lie, -1 where the column is full or is none."""
    row = ROWS - 1 if 0 <= column < COLUMNS else -1
    while row >= 0 and board[row * COLUMNS + column] != 0:
        row -= 1
    return row


@compiled
def makes_four(board: NDArray[np.int8], row: int, column: int, stone: int) -> bool:
    """Return whether a stone on that point is part of four in a row."""
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        run = 1
        for sign in (-1, 1):
            r, c = row + sign * down, column + sign * right
            while 0 <= r < ROWS and 0 <= c < COLUMNS and board[r * COLUMNS + c] == stone:
                run += 1
                r, c = r + sign * down, c + sign * right
        if run >= 4:
            return True
    return False


@compiled
def _fours(board: NDArray[np.int8], stone: int, out: NDArray[np.bool_]) -> int:
    """Write the columns [7] in which a stone makes four at once, and return how many these are."""
    count = 0
    for column in range(COLUMNS):
        row = lowest_row(board, column)
        out[column] = row >= 0 and makes_four(board, row, column, stone)
        count += out[column]
    return count


@compiled
def _forced(board: NDArray[np.int8], mover: int, out: NDArray[np.bool_]) -> int:
    """Write the columns [7] to choose from: those that win, else those where the opponent would, else all with room.

    Returns 1 where the mover wins at once, -1 where the opponent does whatever is played, else 0.
    """
    if _fours(board, mover, out) > 0:
        return 1
    threats = _fours(board, -mover, out)
    if threats == 0:
        for column in range(COLUMNS):
            out[column] = board[column] == 0
    return -1 if threats > 1 else 0


@compiled
def _forced_columns(state: LineState, out: NDArray[np.bool_]) -> None:
    """Write the columns to choose from in all games [N, 7]; none in one that has ended."""
    for n in range(len(out)):
        out[n] = False
        if state.winner[n] == 0:
            _forced(state.board[n], 1 if state.ply[n] % 2 == 0 else -1, out[n])


@compiled
def _reach(
    state: LineState,
    games: NDArray[np.int64],
    paths: NDArray[np.int64],
    lengths: NDArray[np.int64],
    claims: bool,
    planes: NDArray[np.float32],
    legal: NDArray[np.bool_],
    over: NDArray[np.bool_],
    movers: NDArray[np.int8],
    outcomes: NDArray[np.float32],
) -> int:
    """Write where paths lead, as `ConnectFour.leaves` says; return how many run on, -1 - b for an illegal path b."""
    board, running = np.empty(ROWS * COLUMNS, np.int8), 0
    for b in range(len(games)):
        board[:] = state.board[games[b]]
        ply, winner = state.ply[games[b]], int(state.winner[games[b]])
        for step in range(lengths[b]):
            mover = 1 if ply % 2 == 0 else -1
            column = paths[b, step]
            row = lowest_row(board, column)
            if winner != 0 or row < 0:
                return -1 - b
            if makes_four(board, row, column, mover):
                winner = mover
            board[row * COLUMNS + column] = mover
            ply += 1
        mover = 1 if ply % 2 == 0 else -1
        over[b] = winner != 0 or ply == ROWS * COLUMNS
        for column in range(COLUMNS):
            legal[b, column] = board[column] == 0
        if claims and not over[b]:
            winner = mover * _forced(board, mover, legal[b])
            over[b] = winner != 0
        if over[b]:
            legal[b] = False
        movers[b], outcomes[b] = mover, winner
        if not over[b]:
            for point in range(ROWS * COLUMNS):
                planes[running, 0, point] = board[point] == mover
                planes[running, 1, point] = board[point] == -mover
                planes[running, 2, point] = mover == 1
            running += 1
    return running


class ConnectFour(LineGame):
    """Action `column` drops a stone; row 0 is the top."""

    def __init__(self) -> None:
        super().__init__(rows=ROWS, columns=COLUMNS, length=4, num_actions=7)

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

    def forced(self, state: LineState) -> NDArray[np.bool_]:
        """Return the columns that win at once, else those where the opponent would, else all with room."""
        out = np.empty((len(state.ply), self.num_actions), np.bool_)
        _forced_columns(state, out)
        return out

    def point_symmetries(self) -> NDArray[np.int64]:
        """Return the identity and the reflection of left and right."""
        points = np.arange(self.rows * self.columns)
        return np.stack([points, points.reshape(self.rows, self.columns)[:, ::-1].reshape(-1)])

    def symmetries(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return those of points and of columns."""
        columns = np.arange(self.columns)
        return self.point_symmetries(), np.stack([columns, columns[::-1]])

    def leaves(
        self,
        state: LineState,
        games: NDArray[Any],
        paths: NDArray[np.int64],
        lengths: NDArray[np.int64],
        spare: LineState,
        claims: bool = False,
    ) -> Leaves:
        """Return where paths lead, in one compiled loop.

        With `claims` a game also counts as over where the mover wins at once, and where the opponent then does whatever
        is played; and only what parries the opponent's one such threat is legal.
        """
        count = len(games)
        planes = np.empty((count, self.num_planes, ROWS * COLUMNS), np.float32)
        legal, over = np.empty((count, self.num_actions), np.bool_), np.empty(count, np.bool_)
        movers, outcomes = np.empty(count, np.int8), np.empty(count, np.float32)
        running = _reach(state, games, paths, lengths, claims, planes, legal, over, movers, outcomes)
        if running < 0:
            raise ValueError(f"path {-1 - running} is illegal in game {int(games[-1 - running])}")
        return Leaves(planes[:running].reshape(-1, self.num_planes, ROWS, COLUMNS), legal, over, movers, outcomes)
