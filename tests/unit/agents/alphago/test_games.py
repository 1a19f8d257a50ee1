"""What every game must do, whichever it is, and what each does, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from rayloom.errors import UserError
from rayloom_agents.alphago.games import ConnectFour, Game, Go, Hex, State, TicTacToe, copy, repeat, take

GAMES: dict[str, Game] = {
    "tic-tac-toe": TicTacToe(),
    "connect four": ConnectFour(),
    "hex": Hex(4),
    "go": Go(4, komi=0.5),
}
every_game = pytest.mark.parametrize("game", GAMES.values(), ids=GAMES.keys())


def random_actions(game: Game, state: State, generator: np.random.Generator) -> np.ndarray:
    """Return a random legal action of each game that goes on, else -1."""
    draws = np.where(game.legal(state), generator.random((len(game.is_over(state)), game.num_actions)), -1.0)
    return np.where(game.is_over(state), -1, draws.argmax(axis=1))


def play_out(game: Game, count: int, seed: int) -> tuple[State, np.ndarray]:
    """Return finished random games and their actions [N, plies], filled up with -1."""
    generator, state, actions = np.random.default_rng(seed), game.start(count), []
    while not game.is_over(state).all():
        actions.append(random_actions(game, state, generator))
        game.play(state, actions[-1])
    return state, np.stack(actions, axis=1)


@every_game
def test_games_end_in_time_and_what_has_ended_has_no_legal_action(game: Game) -> None:
    generator, state = np.random.default_rng(0), game.start(40)
    for ply in range(game.max_plies + 1):
        over, legal = game.is_over(state), game.legal(state)
        assert legal.shape == (40, game.num_actions) and legal.dtype == np.bool_
        assert (legal.any(axis=1) == ~over).all()
        running = np.flatnonzero(~over)
        assert (game.mover(state)[running] == (-1) ** ply).all()
        game.play(state, random_actions(game, state, generator))
    assert game.is_over(state).all()
    assert len(set(game.outcome(state).tolist()) & {1.0, -1.0}) == 2
    assert (game.outcome(state) == np.sign(game.score(state))).all()


@every_game
def test_planes_show_the_position_from_the_movers_side(game: Game) -> None:
    state = game.start(3)
    before = game.observe(state)
    assert before.shape == (3, game.num_planes, game.rows, game.columns) and before.dtype == np.float32
    assert not before[:, :2].any()
    game.play(state, np.array([0, 1, 2]))
    first = game.observe(state)
    assert (first[:, 1].sum(axis=(1, 2)) == 1).all() and not first[:, 0].any()
    game.play(state, np.array([3, 3, 3]))
    second = game.observe(state)
    assert (second[:, 0] == first[:, 1]).all() and (second[:, 1].sum(axis=(1, 2)) == 1).all()


@every_game
def test_illegal_actions_are_refused_and_name_the_game(game: Game) -> None:
    for action in (game.num_actions, game.num_actions + 7):
        with pytest.raises(ValueError, match=f"action {action} was not played in game 1: it is not legal there"):
            game.play(game.start(2), np.array([0, action]))
    state, _ = play_out(game, 1, 3)
    with pytest.raises(ValueError, match="the game has ended"):
        game.play(state, np.array([0]))


@every_game
def test_a_path_is_its_plays_one_after_the_other_and_copies_are_apart(game: Game) -> None:
    finished, actions = play_out(game, 6, 5)
    lengths = np.array([0, 1, 2, 3, actions.shape[1], 4])
    lengths = np.minimum(lengths, (actions >= 0).sum(axis=1))
    state = game.start(6)
    kept, before = copy(state), game.observe(state)
    game.advance(state, actions, lengths)
    for n in range(6):
        single = game.start(1)
        for action in actions[n, : lengths[n]]:
            game.play(single, np.array([action]))
        assert (game.observe(single)[0] == game.observe(state)[n]).all()
    assert (game.observe(kept) == before).all()
    assert (game.observe(take(finished, np.array([5, 5]))) == game.observe(repeat(take(finished, [5]), 2))).all()


@every_game
def test_symmetries_commute_with_playing(game: Game) -> None:
    """A game of symmetric moves has symmetric planes, legal actions and the same score."""
    points, symmetric = game.symmetries()
    assert (points[0] == np.arange(points.shape[1])).all() and len({tuple(row) for row in points}) == len(points)
    finished, actions = play_out(game, 8, 11)
    for k in range(len(points)):
        new_action = np.empty(game.num_actions, np.int64)
        new_action[symmetric[k]] = np.arange(game.num_actions)  # where the old action has gone
        state, turned = game.start(8), game.start(8)
        for ply in range(actions.shape[1]):
            planes = game.observe(state).reshape(8, game.num_planes, -1)
            assert (game.observe(turned).reshape(planes.shape) == planes[:, :, points[k]]).all()
            assert (game.legal(turned) == game.legal(state)[:, symmetric[k]]).all()
            game.play(state, actions[:, ply])
            game.play(turned, np.where(actions[:, ply] < 0, -1, new_action[actions[:, ply]]))
        assert (game.score(turned) == game.score(finished)).all()


def positions(game: Game, most: int) -> list[int]:
    """Return how many sequences of actions there are of each length."""
    state, counts = game.start(1), [1]
    for _ in range(most):
        parents, actions = np.nonzero(game.legal(state))
        state = take(state, parents)
        game.play(state, actions)
        counts.append(len(actions))
    return counts


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("tic-tac-toe", [1, 9, 72, 504, 3024, 15120, 54720, 148176, 200448, 127872]),
        ("connect four", [1, 7, 49, 343, 2401, 16807, 117649]),
    ],
)
def test_lines_of_play_have_the_known_number(name: str, counts: list[int]) -> None:
    assert positions(GAMES[name], len(counts) - 1) == counts


def test_all_games_of_tic_tac_toe_have_the_known_results() -> None:
    game = GAMES["tic-tac-toe"]
    state, found = game.start(1), {1.0: 0, -1.0: 0, 0.0: 0}
    while len(state.ply):
        parents, actions = np.nonzero(game.legal(state))
        state = take(state, parents)
        game.play(state, actions)
        for outcome in game.outcome(state)[game.is_over(state)].tolist():
            found[outcome] += 1
        state = take(state, ~game.is_over(state))
    assert found == {1.0: 131_184, -1.0: 77_904, 0.0: 46_080}


@pytest.mark.parametrize(
    ("moves", "winner"),
    [
        ("0101010", 1),  # a column
        ("0011223", 1),  # a row
        ("01122323363", 1),  # upwards to the right
        ("65544343303", 1),  # upwards to the left
        ("10203060", -1),  # a column of the second player's
        ("0615256", 0),  # three at the bottom's left and one over them at the right end are no row
    ],
)
def test_connect_four_by_hand(moves: str, winner: int) -> None:
    game, state = ConnectFour(), ConnectFour().start(1)
    boards = []
    for move in moves:
        game.play(state, np.array([int(move)]))
        boards.append(int(game.outcome(state)[0]))
    plain = np.zeros((6, 7), int)
    for ply, move in enumerate(moves):
        row = max(row for row in range(6) if plain[row, int(move)] == 0)
        plain[row, int(move)] = (-1) ** ply
    assert (state.board[0].reshape(6, 7) == plain).all()
    assert boards[-1] == winner and not any(boards[:-1])


def test_hex_has_exactly_one_winner_on_a_full_board() -> None:
    """Whoever joins his sides, found by multiplying adjacency matrices instead of filling."""
    game, size = Hex(4), 4
    state, _ = play_out(game, 60, 2)
    near = [
        [abs(a // size - b // size) <= 1 and abs(a % size - b % size) <= 1
         and (a // size - b // size) * (a % size - b % size) != 1 for b in range(16)]
        for a in range(16)
    ]  # fmt: skip
    for n in range(60):
        winners = []
        for player, start, end in ((1, range(4), range(12, 16)), (-1, range(0, 16, 4), range(3, 16, 4))):
            own = state.board[n] == player
            joined = np.linalg.matrix_power((np.array(near) & own[:, None] & own[None, :]).astype(int), 16) > 0
            winners += [player] * bool(joined[np.ix_(list(start), list(end))].any())
        assert winners == [state.winner[n]]


@pytest.mark.parametrize("size", [1, 20])
def test_impossible_boards_are_refused(size: int) -> None:
    with pytest.raises(UserError, match=r"game\.size: a board of Hex has 2 to 19 lines"):
        Hex(size)
