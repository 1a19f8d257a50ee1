"""Go against counts that others have published, against rules written from the definition, and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from rayloom.errors import UserError
from rayloom_agents.alphago.games import Go, repeat, take
from rayloom_agents.alphago.go import playouts, rules


class PlainGo:
    """Tromp's and Taylor's rules word by word: dictionaries of points, whole boards as history."""

    def __init__(self, size: int, superko: str) -> None:
        self.size, self.superko = size, superko
        self.board: dict[tuple[int, int], int] = {}
        self.mover, self.passes = 1, 0
        self.history = {self.situation(self.board, 1)}

    def situation(self, board: dict[tuple[int, int], int], mover: int) -> object:
        return (frozenset(board.items()), mover if self.superko == "situational" else 0)

    def beside(self, point: tuple[int, int]) -> list[tuple[int, int]]:
        row, column = point
        around = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
        return [(r, c) for r, c in around if 0 <= r < self.size and 0 <= c < self.size]

    def region(self, board: dict[tuple[int, int], int], point: tuple[int, int]) -> tuple[set, set]:
        """Return the connected points of one colour (or empty), and the colours around them."""
        colour, region, around, todo = board.get(point, 0), {point}, set(), [point]
        while todo:
            for other in self.beside(todo.pop()):
                if board.get(other, 0) != colour:
                    around.add(board.get(other, 0))
                elif other not in region:
                    region.add(other)
                    todo.append(other)
        return region, around

    def after(self, point: tuple[int, int]) -> dict[tuple[int, int], int] | None:
        """Return the board after a move; None where it is illegal."""
        if point in self.board:
            return None
        board = {**self.board, point: self.mover}
        for other in self.beside(point):
            if board.get(other) == -self.mover:
                region, around = self.region(board, other)
                if 0 not in around:
                    board = {key: value for key, value in board.items() if key not in region}
        if 0 not in self.region(board, point)[1]:
            return None
        if self.superko != "none" and self.situation(board, -self.mover) in self.history:
            return None
        return board

    def legal(self) -> list[bool]:
        points = [(row, column) for row in range(self.size) for column in range(self.size)]
        return [self.after(point) is not None for point in points] + [True]

    def play(self, action: int) -> None:
        if action < self.size**2:
            board = self.after(divmod(action, self.size))
            assert board is not None
            self.board, self.passes = board, 0
        else:
            self.passes += 1
        self.mover = -self.mover
        self.history.add(self.situation(self.board, self.mover))

    def score(self) -> int:
        """Return Black's area minus White's."""
        total = 0
        for point in [(row, column) for row in range(self.size) for column in range(self.size)]:
            around = self.region(self.board, point)[1]
            owners = {self.board[point]} if point in self.board else around
            total += owners.pop() if len(owners) == 1 else 0
        return total


@pytest.mark.parametrize("superko", ["none", "positional", "situational"])
@pytest.mark.parametrize(("size", "games"), [(2, 10), (3, 6), (5, 2)])
def test_random_games_agree_with_the_rules_written_from_their_definition(size: int, games: int, superko: str) -> None:
    game = Go(size, komi=0.5, superko=superko, max_plies=40 * size)
    generator = np.random.default_rng(size)
    state, plain = game.start(games), [PlainGo(size, superko) for _ in range(games)]
    for _ in range(40 * size):
        over, legal = game.is_over(state), game.legal(state)
        if over.all():
            break
        actions = np.full(games, -1)
        for n in np.flatnonzero(~over):
            assert legal[n].tolist() == plain[n].legal()
            assert game.score(state)[n] == plain[n].score() - 0.5
            choices = np.flatnonzero(legal[n][:-1]) if generator.random() > 0.03 else []
            actions[n] = generator.choice(choices) if len(choices) else size * size
            plain[n].play(int(actions[n]))
        game.play(state, actions)
        for n in np.flatnonzero(~over):
            board = np.zeros((size, size))
            for point, colour in plain[n].board.items():
                board[point] = colour
            assert (game.board(state)[n] == board).all()


def children(game: Go, state: rules.GoState) -> rules.GoState:
    """Return all positions one ply later."""
    parents, actions = np.nonzero(game.legal(state))
    following = take(state, parents)
    game.play(following, actions)
    return following


@pytest.mark.parametrize(
    ("size", "counts"),
    [(2, [1, 5, 21, 68, 156, 316, 604]), (3, [1, 10, 91, 738, 5281]), (5, [1, 26, 651, 15650]),
     (9, [1, 82, 6643, 531522])],
)  # fmt: skip
def test_lines_of_play_have_the_published_number(size: int, counts: list[int]) -> None:
    game = Go(size, superko="situational")
    state, found = game.start(1), [1]
    for ply in range(1, len(counts)):
        found.append(int(game.legal(state).sum()))
        if ply + 1 < len(counts):
            state = children(game, state)
    assert found == counts


@pytest.mark.parametrize(("size", "count"), [(2, 57), (3, 12_675)])
def test_as_many_positions_can_be_reached_as_are_legal(size: int, count: int) -> None:
    game = Go(size, superko="none")
    state, seen, boards = game.start(1), set(), set()
    while len(state.komi):
        state = children(game, state)
        state.header[:, rules.PASSES] = 0  # nobody ends a game here
        state.header[:, rules.PLY] = 0
        keys = list(zip(game.mover(state).tolist(), (board.tobytes() for board in game.board(state)), strict=True))
        rows = [row for key, row in {key: row for row, key in enumerate(keys)}.items() if key not in seen]
        seen.update(keys)
        boards |= {board for _, board in keys}
        state = take(state, np.array(rows, np.int64))
    assert len(boards) == count


def played(game: Go, moves: str) -> rules.GoState:
    """Return the game after moves such as "B2 A1 pass": a letter for the column, a number for the row from the top."""
    state = game.start(1)
    for move in moves.split():
        action = game.size**2 if move == "pass" else "ABCDEFGHJ".index(move[0]) + game.size * (int(move[1:]) - 1)
        game.play(state, np.array([action]))
    return state


def test_a_ko_may_not_be_taken_back_at_once() -> None:
    game = Go(5, komi=0.0)
    state = played(game, "B1 C1 A2 D2 B3 C3 E5 B2 C2")  # Black has taken on C2
    assert game.board(state)[0, 1].tolist() == [1, 0, 1, -1, 0]
    assert not game.legal(state)[0, 6]
    for action in (19, 20):  # a threat and its answer
        game.play(state, np.array([action]))
    assert game.legal(state)[0, 6]


def test_suicide_is_illegal_and_a_capture_is_not_suicide() -> None:
    game = Go(3)
    alone = played(game, "B1 C3 A2")
    assert not game.legal(alone)[0, 0]
    capturing = played(game, "C1 B1 B2 A2 A3 pass A1")
    assert game.board(capturing)[0].tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 0]]
    with pytest.raises(ValueError, match="action 0 was not played in game 0: it is not legal there"):
        game.play(alone, np.array([0]))


def test_two_passes_end_a_game_and_area_is_counted() -> None:
    game = Go(3, komi=1.5)
    state = played(game, "B1 C1 B2 C2 B3 pass pass")
    assert game.is_over(state).all() and not game.legal(state).any()
    assert game.owners(state)[0].tolist() == [1, 1, -1, 1, 1, -1, 1, 1, 0]
    assert game.score(state)[0] == 6 - 2 - 1.5 and game.outcome(state)[0] == 1
    with pytest.raises(ValueError, match="the game has ended"):
        game.play(state, np.array([9]))
    assert game.score(game.start(1))[0] == -1.5  # an empty board is nobody's


def test_a_game_that_is_too_long_is_scored_as_it_stands() -> None:
    game = Go(3, komi=0.5, max_plies=1)
    state = played(game, "B2")
    assert game.is_over(state).all() and game.score(state)[0] == 8.5


def test_planes_of_a_position_by_hand() -> None:
    game = Go(3, komi=1.5)
    state = played(game, "B1 A1 B2 pass")  # Black's turn; A1 has one liberty, the black chain four
    planes = game.observe(state)[0]
    marks = {name: np.flatnonzero(planes[index]).tolist() for index, name in enumerate(
        ("own", "other", "own 1", "own 2", "own 3", "other 1", "other 2", "other 3"))}  # fmt: skip
    assert marks == {"own": [1, 4], "other": [0], "own 1": [], "own 2": [], "own 3": [1, 4], "other 1": [0],
                     "other 2": [], "other 3": []}  # fmt: skip
    assert [np.flatnonzero(plane).tolist() for plane in planes[8:13]] == [[], [4], [0], [1], []]
    assert np.flatnonzero(planes[13]).tolist() == [0, 1, 4]
    assert [set(plane.reshape(-1).tolist()) for plane in planes[14:]] == [{1}, {1}, {-0.5}, {1}]


def test_what_the_mover_may_not_play_is_marked() -> None:
    game = Go(3)
    state = played(game, "B1 C3 A2")
    planes = game.observe(state)[0]
    assert np.flatnonzero(planes[13]).tolist() == [0, 1, 3, 8]  # A1 would be suicide
    assert set(planes[15].reshape(-1).tolist()) == {0} and set(planes[16].reshape(-1).tolist()) == {2.5}


def test_games_of_a_batch_do_not_touch_each_other() -> None:
    game = Go(5)
    state = repeat(played(game, "C3 A1"), 3)
    game.play(state, np.array([0 + 1, -1, 25]))
    assert game.mover(state).tolist() == [-1, 1, -1]
    assert game.board(state)[:, 0, :2].tolist() == [[-1, 1], [-1, 0], [-1, 0]]


def test_random_play_ends_every_game_and_repeats_itself() -> None:
    game, totals = Go(9), []
    for _ in range(2):
        state = game.start(3)
        totals.append((playouts.play_at_random(state, 7, 1000), game.score(state).tolist()))
        assert game.is_over(state).all()
    assert totals[0] == totals[1] and totals[0][0] > 3 * 60


@pytest.mark.parametrize("settings", [{"size": 1}, {"size": 20}, {"superko": "natural"}])
def test_impossible_settings_are_refused(settings: dict) -> None:
    with pytest.raises(UserError, match=r"game\.(size|superko)"):
        Go(**settings)
