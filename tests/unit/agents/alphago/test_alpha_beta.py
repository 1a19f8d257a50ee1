"""Alpha-beta search of Connect Four against plain minimax, and in positions that are decided."""

from __future__ import annotations

import numpy as np
import pytest

from rayloom.errors import UserError
from rayloom_agents.alphago.alpha_beta import WON, AlphaBetaPlayer, action_values
from rayloom_agents.alphago.games import ConnectFour, TicTacToe, copy
from rayloom_agents.alphago.games.lines import LineState


def worth(board: np.ndarray, game: ConnectFour, mover: int) -> int:
    """Return the lines' value by their definition."""
    value = {0: 0, 1: 1, 2: 10, 3: 50}
    total = 0
    for line in game.lines:
        stones = board[line] * mover
        if not (stones == -1).any():
            total += value[int((stones == 1).sum())]
        elif not (stones == 1).any():
            total -= value[int((stones == -1).sum())]
    return total


def minimax(game: ConnectFour, state: LineState, depth: int) -> int:
    """Return the mover's value without pruning."""
    mover = int(game.mover(state)[0])
    if game.is_over(state)[0]:
        return 0 if game.outcome(state)[0] == 0 else -(WON - int(state.ply[0]) + 1)
    if depth == 0:
        return worth(state.board[0], game, mover)
    return max(-minimax(game, after, depth - 1) for _, after in children(game, state))


def children(game: ConnectFour, state: LineState) -> list[tuple[int, LineState]]:
    """Return legal columns and where they lead."""
    found = []
    for action in np.flatnonzero(game.legal(state)[0]):
        after = copy(state)
        game.play(after, np.array([action]))
        found.append((int(action), after))
    return found


@pytest.mark.parametrize("plies", [0, 9, 21, 38])
def test_pruning_changes_no_value(plies: int) -> None:
    game, generator, values = ConnectFour(), np.random.default_rng(plies), np.empty(7, np.int64)
    for _ in range(3):
        state = game.start(1)
        while state.ply[0] < plies:
            games = [after for _, after in children(game, state) if not game.is_over(after)[0]]
            if not games:
                break
            state = games[generator.integers(len(games))]
        mover = int(game.mover(state)[0])
        action_values(state.board[0].copy(), game.lines, mover, int(state.ply[0]), 3, values)
        expected = np.full(7, -WON - 1)
        for action, after in children(game, state):
            expected[action] = -minimax(game, after, 2)
        assert values.tolist() == expected.tolist()


def test_it_takes_a_win_and_stops_one() -> None:
    game = ConnectFour()
    state = game.start(3)
    for actions in ((3, 3, 0), (0, 0, 6), (3, 3, 0), (0, 0, 6), (3, 3, -1)):
        game.play(state, np.array(actions))
    found = AlphaBetaPlayer(game, 4).choose(state, np.array([True, False, True]), np.random.default_rng(0))
    assert found[0] == 3 and found[1] == -1 and found[2] >= 0  # the second player must stop the three in column 3
    game.play(state, np.array([1, -1, 3]))
    assert AlphaBetaPlayer(game, 4).choose(state, np.array([True, False, False]), np.random.default_rng(0))[0] == 3


def test_it_plays_no_other_game() -> None:
    with pytest.raises(UserError, match=r"alpha_beta plays connect_four alone"):
        AlphaBetaPlayer(TicTacToe(), 4)
