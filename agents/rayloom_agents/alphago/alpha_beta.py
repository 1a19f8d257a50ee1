"""Connect Four by alpha-beta search of a fixed depth, compiled: a classical opponent to measure networks against.

Minimax with alpha-beta pruning (Knuth and Moore 1975), columns from the middle outwards. A position in which the game
has not ended is worth what its 69 lines of four say: a line that only one side has stones in counts 1, 10 or 50 for
that side with one, two or three stones. A win counts more the sooner it comes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rayloom.contract import UserError
from rayloom_agents.alphago.compiled import compiled
from rayloom_agents.alphago.games.connect_four import COLUMNS, ROWS, ConnectFour, lowest_row, makes_four
from rayloom_agents.alphago.games.game import Game
from rayloom_agents.alphago.games.lines import LineState

WON = 1_000_000


@compiled
def _worth(board: NDArray[np.int8], lines: NDArray[np.int64], mover: int) -> int:
    """Return what the lines say for the mover."""
    total = 0
    for line in range(len(lines)):
        own, other = 0, 0
        for index in range(4):
            stone = board[lines[line, index]]
            own += stone == mover
            other += stone == -mover
        if other == 0 and own > 0:
            total += 1 if own == 1 else 10 if own == 2 else 50
        elif own == 0 and other > 0:
            total -= 1 if other == 1 else 10 if other == 2 else 50
    return total


@compiled
def _value(
    board: NDArray[np.int8], lines: NDArray[np.int64], mover: int, stones: int, depth: int, low: int, high: int
) -> int:
    """Return the mover's value within (low, high), a bound of it outside; the board is as before afterwards."""
    if stones == ROWS * COLUMNS:
        return 0
    if depth == 0:
        return _worth(board, lines, mover)
    best = -WON - 1
    for index in range(COLUMNS):
        column = COLUMNS // 2 + ((index + 1) // 2) * (1 if index % 2 else -1)
        row = lowest_row(board, column)
        if row < 0:
            continue
        board[row * COLUMNS + column] = mover
        if makes_four(board, row, column, mover):
            value = WON - stones
        else:
            value = -_value(board, lines, -mover, stones + 1, depth - 1, -high, -max(low, best))
        board[row * COLUMNS + column] = 0
        best = max(best, value)
        if best >= high:
            break
    return best


@compiled
def action_values(
    board: NDArray[np.int8], lines: NDArray[np.int64], mover: int, stones: int, depth: int, out: NDArray[np.int64]
) -> None:
    """Write the exact value of every column [7] at a depth, `-WON - 1` where it is full."""
    for column in range(COLUMNS):
        row = lowest_row(board, column)
        if row < 0:
            out[column] = -WON - 1
            continue
        board[row * COLUMNS + column] = mover
        if makes_four(board, row, column, mover):
            out[column] = WON - stones
        else:
            out[column] = -_value(board, lines, -mover, stones + 1, depth - 1, -WON - 1, WON + 1)
        board[row * COLUMNS + column] = 0


class AlphaBetaPlayer:
    """Plays the best column at its depth, one at random among equals."""

    def __init__(self, game: Game, depth: int) -> None:
        """UserError for another game than Connect Four."""
        if not isinstance(game, ConnectFour):
            raise UserError("evaluate.opponent: alpha_beta plays connect_four alone; choose search for other games")
        self.lines, self.depth = game.lines, depth

    def choose(self, state: LineState, turns: NDArray[np.bool_], generator: np.random.Generator) -> NDArray[np.int64]:
        """Return a column where it is this player's turn [N], else -1."""
        chosen, values = np.full(len(turns), -1), np.empty(COLUMNS, np.int64)
        for n in np.flatnonzero(turns):
            mover = 1 if state.ply[n] % 2 == 0 else -1
            action_values(state.board[n].copy(), self.lines, mover, int(state.ply[n]), self.depth, values)
            chosen[n] = generator.choice(np.flatnonzero(values == values.max()))
        return chosen
