"""Expert games: what is refused and named, what survives writing and reading, positions against plain replaying."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rayloom.errors import UserError
from rayloom_agents.alphago.experts.positions import PositionTable, Replay, one_ply_each
from rayloom_agents.alphago.experts.records import UNCOUNTED, GameTable, load_table, make_table, save_table
from rayloom_agents.alphago.experts.sgf import read_folder, write_game
from rayloom_agents.alphago.experts.source import ExpertGames, ExpertGamesConfig, load_positions
from rayloom_agents.alphago.games import Go
from rayloom_agents.alphago.games.game import square_symmetries
from rayloom_agents.alphago.symmetry import Symmetries

GAME = Go(5, 7.5)


def random_games(count: int, game: Go = GAME, seed: int = 0) -> GameTable:
    """Return games of random legal moves, with a komi of their own each, cut off after some plies."""
    generator, found = np.random.default_rng(seed), []
    for number in range(count):
        state, actions = game.start(1), []
        for _ in range(int(generator.integers(6, 30))):
            if not game.is_over(state)[0]:
                actions.append(int(generator.choice(np.flatnonzero(game.legal(state)[0]))))
                game.play(state, np.array(actions[-1:]))
        found.append((actions, 0.5 + number % 3, float(generator.choice([-3.5, 2.5])), number % 4))
    return make_table(game.size, found)


def test_a_game_survives_writing_and_reading(tmp_path: Path) -> None:
    table = random_games(12)
    for number in range(len(table)):
        actions = table.actions[number, : table.lengths[number]].tolist()
        written = write_game(actions, 5, float(table.komi[number]), float(table.result[number]), number % 4)
        (tmp_path / f"{number:02d}.sgf").write_bytes(written)
    found = read_folder(tmp_path, GAME)
    save_table(found.table, tmp_path / "games.npz")
    for again in (found.table, load_table(tmp_path / "games.npz")):
        for name in ("actions", "lengths", "komi", "result", "opening"):
            assert np.array_equal(getattr(again, name), getattr(table, name)), name
    assert not found.skipped


def test_rows_and_columns_are_those_of_sgf(tmp_path: Path) -> None:
    # SGF counts rows from the top: "ba" is the second column of the first row; an empty point or "tt" is a pass.
    (tmp_path / "a.SGF").write_text("(;GM[1]FF[4]SZ[5]KM[0.5]RE[B+R];B[ba];W[ce];B[tt];W[])")
    table = read_folder(tmp_path, GAME).table
    assert table.actions[0].tolist() == [1, 4 * 5 + 2, 25, 25]
    assert table.komi[0] == 0.5 and table.result[0] == UNCOUNTED and table.opening[0] == 0


REFUSED = {
    "broken": ("nothing of the kind", "it is no SGF"),
    "size": ("(;SZ[9]KM[7.5]RE[B+1];B[aa])", "its board has 9 lines"),
    "handicap": ("(;SZ[5]HA[2]AB[aa][ee]RE[B+1];W[cc])", "it begins with handicap or setup stones"),
    "setup": ("(;SZ[5]AW[aa]RE[B+1];B[cc])", "it begins with handicap or setup stones"),
    "later_setup": ("(;SZ[5]RE[B+1];B[cc];AB[aa])", "setup properties after the root"),
    "occupied": ("(;SZ[5]RE[B+1];B[cc];W[cc])", "its move 2 is illegal"),
    "suicide": ("(;SZ[5]RE[B+1];B[ab];W[ee];B[ba];W[aa])", "its move 4 is illegal"),
    "turns": ("(;SZ[5]RE[B+1];B[cc];B[dd])", "Black and White do not move in turn"),
    "white_first": ("(;SZ[5]RE[B+1];W[cc];B[dd])", "Black and White do not move in turn"),
    "empty": ("(;SZ[5]RE[B+1])", "it has no moves"),
    "no_result": ("(;SZ[5]RE[Void];B[cc];W[dd])", "it states no result"),
    "outside": ("(;SZ[5]RE[B+1];B[zz])", "cannot be read"),
    "chess": ("(;GM[3]SZ[5];B[cc])", "it is no game of Go"),
    "komi": ("(;SZ[5]KM[many]RE[B+1];B[cc])", "cannot be read"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_game_that_cannot_be_used_is_named(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    record, reason = REFUSED[name]
    (tmp_path / f"{name}.sgf").write_text(record)
    with pytest.raises(UserError, match="has no games of Go on 5 lines"):
        read_folder(tmp_path, GAME)
    (tmp_path / "good.sgf").write_text("(;SZ[5]RE[W+3];B[cc];W[dd])")
    with caplog.at_level(logging.WARNING):
        found = read_folder(tmp_path, GAME)
    assert len(found.table) == 1 and sum(found.skipped.values()) == 1
    assert f"{name}.sgf" in caplog.text and reason in caplog.text and "1 of 2 games" in caplog.text


def test_a_file_may_hold_several_games_and_a_finished_game_needs_no_result(tmp_path: Path) -> None:
    good, illegal = "(;SZ[5]KM[0.5];B[cc];W[];B[])", "(;SZ[5]RE[B+1];B[cc];W[cc])"
    (tmp_path / "all.sgf").write_text(good + illegal + good)
    found = read_folder(tmp_path, GAME)
    assert len(found.table) == 2 and found.skipped == {"its move N is illegal": 1}
    assert found.table.result.tolist() == [24.5, 24.5]  # the only stone owns the board


def test_superko_is_the_games_own_rule(tmp_path: Path) -> None:
    # A ko taken back at once: forbidden by superko, a record of other rules without it.
    ko = "(;SZ[5]RE[B+1];B[ba];W[ca];B[ab];W[db];B[bc];W[cc];B[cb];W[bb];B[ee];W[ed];B[cb])"
    (tmp_path / "ko.sgf").write_text(ko)
    (tmp_path / "retake.sgf").write_text(ko.replace("B[ee];W[ed];", ""))
    assert len(read_folder(tmp_path, GAME).table) == 1
    assert len(read_folder(tmp_path, Go(5, superko="none")).table) == 2


@pytest.mark.parametrize("damage", ["pickled", "other", "size", "text"])
def test_a_table_that_is_none_is_refused(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "games.npz"
    if damage == "pickled":
        np.savez(path, actions=np.array([{}], object))
    elif damage == "other":
        np.savez(path, actions=np.zeros(3))
    elif damage == "size":
        save_table(replace(random_games(3), size=2), path)
    else:
        path.write_text("no archive")
    with pytest.raises(UserError, match=r"games\.npz"):
        load_table(path)


# --- positions -------------------------------------------------------------------------------------------------------


def plain_row(table: GameTable, number: int, ply: int) -> dict[str, Any]:
    """Return a position by playing its game alone, move by move."""
    state = GAME.start(1)
    state.komi[:] = table.komi[number]
    for action in table.actions[number, :ply]:
        GAME.play(state, np.array([action], np.int64))
    row = {"planes": GAME.observe(state)[0], "action": table.actions[number, ply]}
    mover = 1 if ply % 2 == 0 else -1
    row["outcome"] = (1 if table.result[number] > 0 else -1) * mover
    for action in table.actions[number, ply : table.lengths[number]]:
        GAME.play(state, np.array([action], np.int64))
    row["ownership"] = GAME.owners(state)[0] * mover
    row["counted"] = GAME.is_over(state)[0]
    return row


def test_positions_are_those_of_the_games_played_move_by_move() -> None:
    table = random_games(9)
    everything = PositionTable(Replay(table, GAME), np.array([7, 2, 5, 0]))
    wanted = [(g, ply) for g in (7, 2, 5, 0) for ply in range(table.opening[g], table.lengths[g])]
    assert len(everything) == len(wanted)  # no random opening among them
    order = torch.randperm(len(wanted))
    batch = everything.rows(order)
    for row, (number, ply) in enumerate([wanted[i] for i in order.tolist()]):
        for name, value in plain_row(table, number, ply).items():
            assert np.array_equal(batch[name][row].numpy(), value), (name, number, ply)


def test_one_ply_of_each_game_is_any_that_an_expert_has_played() -> None:
    table = random_games(40)
    chosen = np.arange(5, 40)
    drawn = np.stack([one_ply_each(table, chosen, np.full(35, draw)) for draw in np.linspace(0, 1 - 1e-9, 200)])
    assert (drawn.min(axis=0) == table.opening[chosen]).all()
    assert (drawn.max(axis=0) == table.lengths[chosen] - 1).all()


def test_splits_are_made_by_game_and_do_not_follow_the_seed(tmp_path: Path) -> None:
    save_table(random_games(50), tmp_path / "games.npz")
    config = ExpertGamesConfig(path=str(tmp_path / "games.npz"), size=5, validation=0.2)
    dataset, again = ExpertGames.load_data(config, 0), ExpertGames.load_data(config, 1)
    games = [set(getattr(dataset, split).chosen.tolist()) for split in ("train", "validation", "test")]
    assert [len(each) for each in games] == [35, 10, 5] and len(set.union(*games)) == 50
    assert dataset.digest == again.digest and dataset.digest != load_positions(replace(config, split_seed=1)).digest
    (tmp_path / "games.npz").unlink()
    save_table(replace(random_games(50), komi=np.zeros(50, np.float32)), tmp_path / "games.npz")
    assert load_positions(config).digest != dataset.digest


def test_settings_that_do_not_fit_are_one_sentence(tmp_path: Path) -> None:
    save_table(random_games(2), tmp_path / "two.npz")
    for config, words in (
        (ExpertGamesConfig(size=7), "no games on 7 lines are shipped"),
        (ExpertGamesConfig(size=9, path=str(tmp_path / "two.npz")), "are on 5 lines, not on 9"),
        (ExpertGamesConfig(size=5, path=str(tmp_path / "two.npz")), "cannot be split into three"),
        (ExpertGamesConfig(size=5, path=str(tmp_path / "none")), "is no folder of SGF files"),
    ):
        with pytest.raises(UserError, match=words):
            load_positions(config)


# --- symmetries ------------------------------------------------------------------------------------------------------


def test_a_turned_position_is_the_position_of_the_turned_game() -> None:
    table, symmetries = random_games(8), Symmetries(5, 5)
    rows = PositionTable(Replay(table, GAME), np.arange(8)).rows(torch.arange(60))
    chosen = torch.arange(60) % 8
    where = {old: new for new, old in enumerate(square_symmetries(5)[3].tolist())} | {25: 25, -1: -1}
    turned_games = replace(table, actions=np.vectorize(where.__getitem__)(table.actions).astype(np.int16))
    other = PositionTable(Replay(turned_games, GAME), np.arange(8)).rows(torch.arange(60))
    three = torch.full((60,), 3)
    assert torch.equal(symmetries.turn(rows["planes"], three), other["planes"])
    assert torch.equal(symmetries.turn_actions(rows["action"], three), other["action"])
    assert torch.equal(symmetries.turn_points(rows["ownership"], three), other["ownership"])
    # Of each kind one row: the point that the move is on moves along.
    marked = torch.nn.functional.one_hot(rows["action"].clamp(max=24), 25).float().view(60, 1, 5, 5)
    moved = symmetries.turn(marked, chosen).flatten(1).argmax(dim=1)
    on_board = rows["action"] < 25
    assert torch.equal(symmetries.turn_actions(rows["action"], chosen)[on_board], moved[on_board])
    assert len({tuple(symmetries.turn_actions(torch.tensor([1]), torch.tensor([k])).tolist()) for k in range(8)}) == 8


def test_judging_all_symmetries_brings_moves_back() -> None:
    planes, symmetries = torch.rand(6, 2, 5, 5), Symmetries(5, 5)

    def equivariant(given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        points = given[:, 0].flatten(1)
        return torch.cat([points, given[:, :1, 0, 0] * 0 + 0.5], dim=1), given[:, 1].mean(dim=(1, 2))

    together, values = symmetries.judge_all(equivariant, planes)
    logits, value = equivariant(planes)
    torch.testing.assert_close(together, logits.log_softmax(dim=1))
    torch.testing.assert_close(values, value.expand(8, 6))
    # What a network says of the turned board belongs to the turned points: one that knows nothing but corners.
    corner, _ = symmetries.judge_all(lambda given: (torch.eye(26)[0].mul(9).expand(len(given), 26), value), planes)
    likely = corner[0].exp().topk(4)
    assert sorted(likely.indices.tolist()) == [0, 4, 20, 24] and likely.values.min() > 0.24


def test_draws_of_symmetries_are_even_and_rectangles_are_refused() -> None:
    class Ladder:
        def uniform(self, rows: int) -> torch.Tensor:
            return torch.arange(rows) / rows

    drawn = Symmetries(5, 5).draw(Ladder(), 800)  # type: ignore[arg-type]
    assert torch.bincount(drawn).tolist() == [100] * 8
    with pytest.raises(UserError, match="square"):
        Symmetries(6, 7)
