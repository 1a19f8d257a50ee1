"""Hex: the first player joins top and bottom, the second left and right. There are no draws; the first can win."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rayloom.contract import UserError
from rayloom_agents.alphago.compiled import compiled
from rayloom_agents.alphago.games.game import Game, half_turn, refuse


class HexState(NamedTuple):
    """N games."""

    board: NDArray[np.int8]
    """[N, size^2]: 1 the first player's stones, -1 the second's, 0 none."""
    ply: NDArray[np.int32]
    """[N]: stones that were played."""
    winner: NDArray[np.int8]
    """[N]: 1 or -1 once somebody has won."""


@compiled
def _joins(board: NDArray[np.int8], size: int, player: int) -> bool:
    """Return whether a player's stones reach from the first to the last line: of rows (1) or of columns (-1)."""
    found, stack, count = np.zeros(len(board), np.bool_), np.empty(len(board), np.int64), 0
    for index in range(size):
        point = index if player == 1 else index * size
        if board[point] == player:
            found[point], stack[count] = True, point
            count += 1
    while count > 0:
        count -= 1
        row, column = stack[count] // size, stack[count] % size
        if (row if player == 1 else column) == size - 1:
            return True
        for down, right in ((0, 1), (0, -1), (1, 0), (-1, 0), (1, -1), (-1, 1)):
            if 0 <= row + down < size and 0 <= column + right < size:
                beside = (row + down) * size + column + right
                if board[beside] == player and not found[beside]:
                    found[beside], stack[count] = True, beside
                    count += 1
    return False


@compiled
def _play(state: HexState, size: int, actions: NDArray[np.int64], played: NDArray[np.bool_]) -> None:
    for n in range(len(actions)):
        if actions[n] < 0:
            played[n] = True
            continue
        played[n] = state.winner[n] == 0 and actions[n] < size * size and state.board[n, actions[n]] == 0
        if played[n]:
            player = 1 if state.ply[n] % 2 == 0 else -1
            state.board[n, actions[n]] = player
            state.ply[n] += 1
            if _joins(state.board[n], size, player):
                state.winner[n] = player


class Hex(Game):
    """Action `size * row + column` puts a stone there; no swap. A point touches the next two of the row below it."""

    num_planes = 3
    """Own stones, the opponent's, whether the mover is the first player (who joins top and bottom)."""

    def __init__(self, size: int = 7) -> None:
        """UserError for impossible boards."""
        if not 2 <= size <= 19:
            raise UserError(f"game.size: a board of Hex has 2 to 19 lines, not {size}")
        self.rows = self.columns = self.size = size
        self.num_actions = self.max_plies = size * size

    def start(self, count: int) -> HexState:
        """Return empty boards."""
        board = np.zeros((count, self.num_actions), np.int8)
        return HexState(board, np.zeros(count, np.int32), np.zeros(count, np.int8))

    def mover(self, state: HexState) -> NDArray[np.int8]:
        """Return the mover by the number of plies."""
        return np.where(state.ply % 2 == 0, 1, -1).astype(np.int8)

    def is_over(self, state: HexState) -> NDArray[np.bool_]:
        """Return where somebody has won."""
        ended: NDArray[np.bool_] = state.winner != 0
        return ended

    def legal(self, state: HexState) -> NDArray[np.bool_]:
        """Return the free points."""
        free: NDArray[np.bool_] = (state.board == 0) & (state.winner == 0)[:, None]
        return free

    def play(self, state: HexState, actions: NDArray[Any]) -> None:
        """Put stones."""
        over, played = self.is_over(state), np.empty(len(actions), np.bool_)
        _play(state, self.size, np.ascontiguousarray(actions, np.int64), played)
        refuse(over, actions, played)

    def score(self, state: HexState) -> NDArray[np.float32]:
        """Return the winner."""
        return state.winner.astype(np.float32)

    def observe(self, state: HexState) -> NDArray[np.float32]:
        """Return own stones, the opponent's and whose turn it is."""
        mover = self.mover(state)
        side = state.board * mover[:, None]
        first = np.broadcast_to((mover == 1)[:, None], side.shape)
        planes = np.stack([side == 1, side == -1, first], axis=1).astype(np.float32)
        return planes.reshape(len(side), self.num_planes, self.size, self.size)

    def point_symmetries(self) -> NDArray[np.int64]:
        """Return the identity and the half turn: others exchange the players' sides."""
        return half_turn(self.size, self.size)
