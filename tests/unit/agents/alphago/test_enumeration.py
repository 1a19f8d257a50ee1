"""Every line of play: how many there are, and what perfect and bad players make of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rayloom.errors import UserError
from rayloom_agents.alphago.enumeration import outcomes_of_all_lines
from rayloom_agents.alphago.games import ConnectFour, TicTacToe

WINNING = [(0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6)]


class Lowest:
    """Plays the lowest free point."""

    def __init__(self, game: TicTacToe) -> None:
        self.game = game

    def choose(self, state: Any, turns: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        return self.game.legal(state).argmax(axis=1)


def lines(board: list[int], mover: int, seat: int) -> list[int]:
    """Return the outcomes of all lines for a seat whose player takes the lowest free point, by recursion."""
    for line in WINNING:
        if abs(sum(board[point] for point in line)) == 3:
            return [board[line[0]] * seat]
    free = [point for point in range(9) if board[point] == 0]
    if not free:
        return [0]
    found = []
    for point in free[:1] if mover == seat else free:
        found += lines([*board[:point], mover, *board[point + 1 :]], -mover, seat)
    return found


@pytest.mark.parametrize("seat", [1, -1])
def test_all_lines_against_a_known_player(seat: int) -> None:
    game = TicTacToe()
    found = outcomes_of_all_lines(game, lambda count: Lowest(game), seat, 100_000)
    assert sorted(found.tolist()) == sorted(lines([0] * 9, 1, seat)) and (found == -1).any()


def value(board: tuple[int, ...], mover: int, known: dict[tuple[int, ...], int]) -> int:
    """Return how a position ends for its mover between players without mistake."""
    if board not in known:
        if any(abs(sum(board[point] for point in line)) == 3 for line in WINNING):
            known[board] = -1  # by the opponent's last stone
        elif all(board):
            known[board] = 0
        else:
            known[board] = max(-value(after, -mover, known) for _, after in moves(board, mover))
    return known[board]


def moves(board: tuple[int, ...], mover: int) -> list[tuple[int, tuple[int, ...]]]:
    """Return free points and what the board is after a stone there."""
    return [(p, (*board[:p], mover, *board[p + 1 :])) for p in range(9) if board[p] == 0]


class Perfect:
    """Makes no mistake."""

    def __init__(self) -> None:
        self.known: dict[tuple[int, ...], int] = {}

    def choose(self, state: Any, turns: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        chosen = []
        for row, ply in zip(state.board.tolist(), state.ply.tolist(), strict=True):
            mover = 1 if ply % 2 == 0 else -1
            chosen.append(max(moves(tuple(row), mover), key=lambda move: -value(move[1], -mover, self.known))[0])
        return np.array(chosen)


def test_a_player_without_mistake_loses_no_line() -> None:
    for seat in (1, -1):
        found = outcomes_of_all_lines(TicTacToe(), lambda count: Perfect(), seat, 100_000)
        assert (found >= 0).all() and (found == 1).any() and (found == 0).any()


def test_a_game_with_too_many_lines_is_refused() -> None:
    with pytest.raises(UserError, match=r"evaluate\.most_lines"):
        outcomes_of_all_lines(ConnectFour(), lambda count: Lowest(ConnectFour()), 1, 1000)  # type: ignore[arg-type]
