"""Matches: colours and openings, whoever breaks a rule loses that game alone, records, pictures, and GNU Go."""

from __future__ import annotations

import json
import re
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sgfmill import sgf

from go_players import FolderHost, by_area, untrained
from rayloom.contract import Budget, EvaluationContext
from rayloom.errors import UserError
from rayloom_agents.alphago.games import Go, TicTacToe
from rayloom_agents.alphago.gtp.contestants import (
    Chance,
    Choice,
    Contestant,
    GtpContestant,
    Searcher,
    read_score,
    without_knowledge,
)
from rayloom_agents.alphago.gtp.coordinates import RESIGN
from rayloom_agents.alphago.gtp.evaluation import EngineMatches, EngineMatchesConfig
from rayloom_agents.alphago.gtp.gnugo import gnugo_program
from rayloom_agents.alphago.gtp.match_command import MatchCommand
from rayloom_agents.alphago.gtp.naming import Tables, make_contestant
from rayloom_agents.alphago.gtp.referee import PlayedGame, Referee, draw_openings
from rayloom_agents.alphago.gtp.reports import summary, table
from rayloom_agents.alphago.matches import Player, play_match
from rayloom_agents.alphago.pictures import board_png, pixels, policy_matrix, replay, win_rate_curves, win_rate_png
from rayloom_agents.alphago.search import SearchSettings

ENGINE = """
import os, sys, time
how, moves, told = sys.argv[1], 0, 0
for line in sys.stdin:
    number, command, *rest = line.split()
    said = ""
    if command == "clear_board":
        moves = told = 0
    elif command == "genmove":
        moves += 1
        said = ["A1", "B1", "C1", "pass", "pass", "pass"][moves - 1]
        if moves == 2:
            if how == "crash":
                sys.stderr.write("no idea\\n"); sys.stderr.flush(); os._exit(1)
            if how == "hang":
                time.sleep(30)
            said = {"illegal": "A1", "nonsense": "Z99", "resign": "resign"}.get(how, said)
    elif command == "final_score":
        said = "B+100"
    elif command == "play":
        told += 1
        if how == "refuse" and told == 2:
            print(f"?{number} cannot\\n", flush=True)
            continue
    print(f"={number} {said}\\n", flush=True)
"""
MODES = {
    "illegal": r"fake played A1, which is illegal",
    "nonsense": r"fake answered a move with what is none: 'Z99' is no point of a board of 5 lines",
    "crash": r"engine fake died when it was asked 'genmove [bw]'; its last words: no idea",
    "hang": r"engine fake did not answer 'genmove [bw]' in time",
    "refuse": r"engine fake refuses 'play [bw] [A-E]\d': cannot",
}


class Upwards(Contestant):
    """Plays E5, D5, C5, B5, A5, then passes; resigns or breaks a rule where it is told to."""

    name = "upwards"

    def __init__(self, resigns: bool = False) -> None:
        self.resigns, self.begun = resigns, 0

    def begin(self, tables: Any) -> None:
        """Count games."""
        self.begun += len(tables)

    def choose(self, state: Any, tables: Any, colours: Any) -> list[Choice]:
        """Play the next one."""
        legal = Go(5).legal(state)
        points = [next((p for p in (4, 3, 2, 1, 0) if legal[t, p]), 25) for t in tables]
        return [Choice(RESIGN if self.resigns else point, 0.75) for point in points]


def external(how: str, tables: int = 2, deadline_s: float = 20.0) -> GtpContestant:
    """Return an engine that misbehaves as `how` says at its second move."""
    return GtpContestant("fake", [[sys.executable, "-S", "-c", ENGINE, how]] * tables, Go(5, 0.5), deadline_s)


@pytest.mark.parametrize("how", MODES)
def test_an_engine_loses_the_game_in_which_it_fails_and_plays_on(how: str) -> None:
    fake, told = external(how, deadline_s=0.5 if how == "hang" else 20.0), list[PlayedGame]()
    if how == "hang":  # starting Python may take longer than that
        for engine in fake._engines:
            engine.ask("name", 20)
    try:
        result = Referee(Go(5, 0.5), (Upwards(), fake), 2, told.append).play(4, 0, seed=1)
    finally:
        fake.close()
    assert result.score == 1.0 and result.faults(1) == 4 and result.faults(0) == 0
    assert {game.result for game in result.games} == {"B+F", "W+F"} and len(told) == 4
    for game in result.games:
        assert re.fullmatch(MODES[how], game.fault), game.fault
        assert game.result == ("B+F" if game.black == 0 else "W+F")
    assert result.restarts == (0, 2 if how in ("crash", "hang") else 0)
    assert "4 games lost by a fault" in table(result)


def test_resignations_and_scores_are_counted_from_the_right_side() -> None:
    fake = external("resign", 1)
    try:
        lost = Referee(Go(5, 0.5), (fake, Upwards()), 1).play(2, 0, seed=0)
        assert [game.result for game in lost.games] == ["W+R", "B+R"] and lost.score == 0.0
        assert lost.faults(0) == 0 and lost.restarts == (0, 0)
        given = Referee(Go(5, 0.5), (fake, Upwards(resigns=True)), 1).play(2, 0, seed=0)
        assert [game.result for game in given.games] == ["B+R", "W+R"] and given.score == 1.0
    finally:
        fake.close()
    fair = external("fair", 1)
    try:
        result = Referee(Go(5, 0.5), (Upwards(), fair), 1).play(2, 0, seed=0)
    finally:
        fair.close()
    # Five stones on the upper edge against three on the lower one: no empty point is anybody's.
    assert [(game.result, game.outcome) for game in result.games] == [("B+1.5", 1.0), ("W+2.5", 1.0)]
    assert result.games[0].other_scores == {"fake": 100.0} and result.disagreements() == (1, 2)
    rates = result.games[1].win_rates  # White's 0.75 is Black's 0.25
    assert rates[:4] == [None, 0.25, None, 0.25]
    assert result.count(1) == 2 and result.count(1, black=0) == 1 and result.distinct == 2
    low, high = result.interval
    assert low == pytest.approx(0.3424, abs=1e-3) and high == pytest.approx(1.0)


def test_openings_come_in_pairs_and_differ() -> None:
    game = Go(5, 7.5)
    openings = draw_openings(game, 40, 2, seed=3)
    assert len({tuple(each) for each in openings}) == 40 and all(25 not in each for each in openings)
    assert draw_openings(game, 40, 2, seed=3) == openings != draw_openings(game, 40, 2, seed=4)
    players = (Chance(game, 1), Upwards())
    result = Referee(game, players, 3).play(10, 2, seed=3)
    assert [game.number for game in result.games] == list(range(10)) and players[1].begun == 10
    for pair in range(5):
        first, second = result.games[2 * pair : 2 * pair + 2]
        assert (first.black, second.black) == (0, 1)
        assert [move.action for move in first.moves[:2]] == [move.action for move in second.moves[:2]] == openings[pair]
        assert [move.colour for move in first.moves[:4]] == [1, -1, 1, -1]


def test_a_search_wins_against_chance_as_the_other_implementation_of_matches_finds() -> None:
    game, settings = Go(5, 2.5), SearchSettings(simulations=40, leaves=4)
    ours = Referee(game, (Searcher("area", game, 8, by_area(5), settings), Chance(game, 0)), 8).play(24, 2, seed=0)
    theirs, _ = play_match(game, (Player(game, 24, by_area(5), settings), Player(game, 24, None, None)), 24, 2, 0)
    assert ours.score > 0.85 and (theirs.mean() + 1) / 2 > 0.85
    blind = Referee(game, (without_knowledge(game, 4, 16), Chance(game, 0)), 4).play(4, 2, seed=0)
    assert blind.names == ("search:16", "random")


def test_words_name_players() -> None:
    tables = Tables(Go(5, 7.5), 1, 0, 5.0)
    for word, told in (
        ("search:", "whole number from 1"), ("search:0", "not '0'"), ("search:many", "not 'many'"),
        ("gnugo:11", "from 1 to 10"), ("gtp:", "write the engine's command"), ("gtp:'", "No closing quotation"),
        ("gtp:/no/such -x", "engine such: /no/such cannot be started"), ("somebody", "write random, search:SIM"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=told):
            make_contestant(word, tables)
    assert [read_score(text) for text in ("B+3.5", "w+10", "0", "?", "B+", "")] == [3.5, -10.0, 0.0, None, None, None]


def options(*words: str) -> Namespace:
    """Return the parsed arguments of `rayloom match`."""
    parser = ArgumentParser()
    MatchCommand().add_arguments(parser)
    found = parser.parse_args(words)
    found.output = "none"
    return found


def test_the_command_writes_and_records_what_was_played(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host: Any = FolderHost(five=untrained(5), nine=untrained(9), lines=untrained(game="tic_tac_toe"))
    words = ["five", "five:4", "raw:five", "--games", "4", "--pictures", "2", "--destination", str(tmp_path / "m")]
    found = MatchCommand().run(options(*words), host)
    assert found["games"] == 4 and found["players"] == ["untrained5:4", "raw:untrained5"]
    assert found["won"] + found["drawn"] + found["lost"] == 4 and found["distinct"] == 4
    name, files, figures = host.recorded["untrained5"]
    assert name.startswith("matches/") and name.endswith("-five-4-raw-five")
    assert sorted([*files, "games.jsonl"]) == sorted(
        path.relative_to(tmp_path / "m").as_posix() for path in (tmp_path / "m").rglob("*.*")
    )
    assert {"boards.png", "win_rates.png", "policy_a.png", "policy_b.png", "games/0003.sgf"} <= set(files)
    assert figures["match/games"].data.shape[0] == 2 and figures["match/win_rates"].data.shape[0] == 2
    game = sgf.Sgf_game.from_bytes((tmp_path / "m/games/0001.sgf").read_bytes())
    assert game.get_player_name("b") == "raw:untrained5" and game.get_komi() == 7.5
    nodes = game.get_main_sequence()[1:]
    assert nodes[1].get("C") == "random opening" and nodes[2].get("C").startswith("Black wins ")
    assert "result.txt" in files and "games and pictures" in host.people.getvalue()
    for wrong, told in (
        (["nobody", "five", "random"], r"there is no run 'nobody'; players by name: "),
        (["five", "nine", "random"], r"player 'nine' plays Go on 9 lines, and the match is on 5 lines of Go"),
        (["five", "lines", "random"], r"plays TicTacToe"), (["lines", "random", "random"], r"GTP is for Go"),
        (["five", "five:x", "random"], r"whole number from 1"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=told):
            MatchCommand().run(options(*wrong), host)
    for wrong in (["--games", "3"], ["--games", "0"], ["--parallel", "0"], ["--opening-plies", "-1"]):
        with pytest.raises(SystemExit):
            options("five", "five", "random", *wrong)
    assert "must be an even number" in capsys.readouterr().err


def test_a_match_that_was_interrupted_goes_on_with_the_games_that_it_has(tmp_path: Path) -> None:
    host: Any = FolderHost(five=untrained(5))
    words = ["five", "random", "raw:five", "--pictures", "0", "--parallel", "1"]
    journal = tmp_path / "m" / "games.jsonl"

    def play(folder: str, games: int, *more: str) -> dict[str, Any]:
        where = ["--games", str(games), "--destination", str(tmp_path / folder)]
        return dict(MatchCommand().run(options(*words, *where, *more), host))

    def moves_of(file: Path) -> list[Any]:
        return [node.get_move() for node in sgf.Sgf_game.from_bytes(file.read_bytes()).get_main_sequence()[1:]]

    whole = play("whole", 6)
    ended, begun = Referee._end, list[PlayedGame]()

    def cut(self: Referee, table: int) -> PlayedGame:
        if len(begun) == 3:
            raise KeyboardInterrupt
        begun.append(ended(self, table))
        return begun[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Referee, "_end", cut)
        with pytest.raises(KeyboardInterrupt):
            play("m", 6)
    kept = journal.read_text().splitlines()
    assert len(kept) == 4 and not (tmp_path / "m" / "result.txt").exists()
    with journal.open("a") as file:
        file.write('{"number": 3, "black"')  # whoever wrote it was killed
    found = play("m", 6)
    assert "3 games were played before" in host.people.getvalue()
    assert journal.read_text().splitlines()[:4] == kept and len(journal.read_text().splitlines()) == 7
    assert found["games"] == whole["games"] == 6
    for number in range(6):  # the first ones are what they were, and every opening is that of its number
        before, after = (moves_of(tmp_path / folder / "games" / f"{number:04d}.sgf") for folder in ("whole", "m"))
        assert before == after if number < 3 else before[:2] == after[:2]
    whole_journal = journal.read_text().splitlines()
    journal.write_text(
        "\n".join(whole_journal[:2] + whole_journal[3:]) + "\n"
    )  # at several tables games end in any order
    assert play("m", 8)["games"] == 8
    assert sorted(json.loads(line)["number"] for line in journal.read_text().splitlines()[1:]) == list(range(8))
    with pytest.raises(UserError, match="is of a match with another seed, 0 and not 1: name another folder"):
        play("m", 6, "--seed", "1")
    for broken in ("[]\n", "{}\n{}\n", "\x00\n", '{"run_id": "five"}\n{"number": 0, "moves": 3}\n'):
        journal.write_text(broken)
        with pytest.raises(UserError, match=r"games\.jsonl is (damaged|of a match with another)"):
            play("m", 6)


def test_the_evaluation_plays_in_training() -> None:
    network = untrained(5)
    context = EvaluationContext(source=network.source, data=None)
    settings = {"games": 4, "search": SearchSettings(simulations=8), "drawn": 2}
    budget = Budget(60.0)
    found = EngineMatches(EngineMatchesConfig(opponent="random", **settings), context).run(  # type: ignore[arg-type]
        network.algorithm, 7, budget
    )
    assert budget.units == 4 and set(found.metrics) == set(EngineMatches.metrics)
    assert found.metrics["won"] + found.metrics["lost"] <= 1
    assert {"results", "games", "win_rates", "first_move"} == set(found.figures) and "games/0003.sgf" in found.files
    again = EngineMatches(EngineMatchesConfig(opponent="random", **settings), context).run(  # type: ignore[arg-type]
        network.algorithm, 7, Budget(60.0)
    )
    assert again.files["games/0003.sgf"] == found.files["games/0003.sgf"]
    with pytest.raises(UserError, match="needs a source with a board game"):
        EngineMatches(EngineMatchesConfig(), EvaluationContext(source=object(), data=None))
    with pytest.raises(UserError, match="is for Go, and the source plays TicTacToe"):
        EngineMatches(EngineMatchesConfig(), EvaluationContext(source=untrained(game="tic_tac_toe").source, data=None))


@pytest.mark.skipif(gnugo_program() is None, reason="GNU Go is not installed (Debian's package gnugo)")
def test_gnu_go_beats_a_network_without_training_and_counts_as_we_do() -> None:
    game, settings = Go(5, 0.5), SearchSettings(simulations=8, leaves=2)
    gnugo = make_contestant("gnugo:1", Tables(game, 2, 0, 60.0))
    try:
        network = untrained(5)
        ours = Searcher("tiny", game, 2, network.algorithm.infer, settings)  # type: ignore[operator]
        result = Referee(game, (ours, gnugo), 2).play(4, 2, seed=0)
    finally:
        gnugo.close()
    assert result.score <= 0.25 and result.faults(0) == result.faults(1) == 0 and result.distinct == 4
    assert all("gnugo:1" in played.other_scores for played in result.games if played.score is not None)
    assert result.disagreements()[0] == 0
    assert summary(result)["players"] == ["tiny", "gnugo:1"]


def test_pictures_show_what_was_played() -> None:
    game = Go(5, 0.5)
    # Black takes White's stone in the corner, and White plays there again later.
    actions = [1, 0, 5, 25, 7, 12]
    picture = replay(game, actions)
    assert picture.stones[0].tolist() == [0, 1, 0, 0, 0] and picture.numbers is not None
    assert picture.numbers[0].tolist() == [0, 1, 0, 0, 0] and picture.numbers[2, 2] == 6 and picture.last == 12
    assert replay(game, actions, plies=2).numbers[0].tolist() == [2, 1, 0, 0, 0]  # type: ignore[index]
    board = pixels(picture, 120)
    assert board.shape == (3, 120, 120) and board.min() >= 0 and board.max() <= 1
    black, white = board[:, 10:20, 33:43], board[:, 50:54, 58:62]
    assert black.mean() < 0.4 and white.mean() > 0.8  # B5, and C3 above its number
    heat = np.zeros((5, 5))
    heat[4, 4] = 1.0
    assert (pixels(picture.__class__(picture.stones, policy=heat)) != pixels(picture.__class__(picture.stones))).any()
    owned = pixels(picture.__class__(picture.stones, ownership=-np.ones((5, 5))))
    assert (owned != pixels(picture.__class__(picture.stones))).any()
    assert board_png([picture, picture]).startswith(b"\x89PNG") and b"<svg" in board_png([picture], file="svg")
    assert win_rate_png([("a", [None, 0.5, 0.75])]).startswith(b"\x89PNG")
    curves = win_rate_curves([[None, 0.25, None], [0.75]], ["a", "b"])
    assert curves.data is not None and curves.data.tolist() == [[0.5, 0.25, 0.25], [0.75, 0.75, 0.75]]
    matrix = policy_matrix(np.arange(26) / 325, 5)
    assert matrix.labels[0] == "5" and matrix.column_labels == ("A", "B", "C", "D", "E")
    assert replay(TicTacToe(), [4, 0]).stones.tolist() == [[-1, 0, 0], [0, 1, 0], [0, 0, 0]]
