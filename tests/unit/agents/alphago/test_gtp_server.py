"""The GTP server: transcripts in the manner of Sabaki, Lizzie and referees, and everything that can be sent wrongly."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np

from go_players import session, talk
from rayloom_agents.alphago.games.go import Go
from rayloom_agents.alphago.gtp.board import Board, score_text
from rayloom_agents.alphago.gtp.clock import Clock
from rayloom_agents.alphago.gtp.coordinates import action_of
from rayloom_agents.alphago.gtp.protocol import parse, serve
from rayloom_agents.alphago.gtp.records import Record, write_sgf
from rayloom_agents.alphago.gtp.thinking import Thinker
from rayloom_agents.alphago.search import SearchSettings
from tree_search import uniform_network


def test_a_game_as_a_referee_sends_it() -> None:
    answers = talk(
        session(),
        "1 protocol_version", "2 name", "3 boardsize 5", "4 clear_board", "5 komi 0.5", "# a comment", "",
        "6 play b C3 # the middle", "7 genmove w", "8 play black pass", "9 play W PASS", "10 final_score",
        "11 known_command genmove", "12 known_command fly", "13 quit", "14 name",
    )  # fmt: skip
    heads = [re.match(r"[=?](\d+)", line)[1] for line in answers]  # type: ignore[index]
    assert heads == [str(number) for number in range(1, 14)]  # nothing is answered after quit
    assert answers[0] == "=1 2" and answers[1] == "=2 rayloom test"
    assert re.fullmatch(r"=7 [A-E][1-5]", answers[6]) and answers[6] != "=7 C3"
    assert answers[9] == "=10 W+0.5"  # one stone each: no empty region belongs to one of them
    assert answers[10:12] == ["=11 true", "=12 false"]


def test_mistakes_are_answered_and_change_nothing(tmp_path: Path) -> None:
    (tmp_path / "broken.sgf").write_text("(;GM[1]SZ[5")
    (tmp_path / "large.sgf").write_text("(;SZ[9];B[aa])")
    (tmp_path / "illegal.sgf").write_text("(;SZ[5];B[aa];W[aa])")
    to = session()
    talk(to, "komi 6.5", "play b C3")
    wrong = {
        "fly": "unknown command", "play": "syntax error: one more argument is missing", "play b": "missing",
        "play green C3": "invalid color", "play b I5": "invalid vertex", "play w C3": "illegal move",
        "play w F1": "invalid vertex", "play w resign": "invalid vertex", "genmove": "missing",
        "genmove x": "invalid color", "komi": "missing", "komi seven": "is no number", "komi nan": "is no number",
        "komi 1e9": "komi: write a number", "boardsize 19": "unacceptable size: this network was made for 5 lines",
        "boardsize 0": "made for 5 lines", "boardsize 5.5": "is no whole number", "boardsize": "missing",
        "time_settings 1 2": "3 more arguments are missing", "time_settings -1 2 3": "not negative",
        "time_left b 1": "2 more arguments", "final_status_list": "missing", "final_status_list asleep": "syntax",
        "loadsgf": "takes a file", f"loadsgf {tmp_path}/none.sgf": "cannot load file: No such file",
        f"loadsgf {tmp_path}/broken.sgf": "cannot load file", f"loadsgf {tmp_path}/large.sgf": "it is on 9 lines",
        "set_free_handicap A1 B1": "board not empty", "lz-analyze b x": "unknown option",
        "genmove_analyze": "whose move", "lz-analyze b avoid b": "lacks an argument",
        "lz-analyze b maxmoves many": "whole number", "lz-analyze b interval -1": "no interval",
        "lz-analyze b avoid b Z9 1": "no point", "known_command": "missing", "12": "unknown command",
        "\x00\x07\x1b fly\x7f": "unknown command", "play b \u00b9": "invalid vertex", "x" * 300_000: "unknown command",
    }  # fmt: skip
    answers = talk(to, *wrong)
    assert len(answers) == len(wrong)
    for (line, told), answer in zip(wrong.items(), answers, strict=True):
        assert answer.startswith("?") and told in answer and len(answer) < 300, (line[:50], answer[:300])
    assert talk(to, f"loadsgf {tmp_path}/illegal.sgf")[0].startswith("? cannot load file: move 2, A5, is illegal")
    assert to.board.stones().sum() == 1 and to.board.komi == 6.5 and to.board.mover == -1
    assert talk(to, "undo", "undo") == ["=", "? cannot undo"]


def test_board_undo_and_colours_out_of_turn() -> None:
    to = session()
    talk(to, "play b A1", "play b B2", "play b A3", "play w E5", "play b B1", "play w A2")
    assert to.board.stones()[3, 0] == 0  # White's A2 was suicide: refused
    shown = talk(to, "showboard")[0].splitlines()
    assert shown[1].split() == list("ABCDE") and shown[2] == " 5 . . . . O 5" and shown[6] == " 1 X X . . . 1"
    talk(to, "undo", "undo")
    assert int(to.board.stones().sum()) == 3 and to.board.mover == -1
    assert talk(to, "final_status_list alive")[0].splitlines() == ["= A3", "B2", "A1"]
    assert talk(to, "final_status_list dead")[0] == "="
    talk(to, "play w pass", "play b pass")
    assert talk(to, "genmove w") == ["= pass"]  # the game has ended
    talk(to, "play w E5")  # and goes on where a human wants it to
    assert to.board.stones()[0, 4] == -1 and not to.board.is_over()
    talk(to, "clear_board", "set_free_handicap A1 E5")
    assert to.board.stones().sum() == 2 and to.board.mover == -1 and talk(to, "undo") == ["? cannot undo"]


def test_a_pass_reaches_the_search_and_the_second_one_ends_the_game_exactly() -> None:
    """White is ahead on the board: after Black's pass a pass wins at once, whatever the network believes."""
    board = Board(Go(5, komi=0.5, max_plies=100))
    thinker = Thinker(board, uniform_network(board.game), SearchSettings(simulations=60, leaves=4))
    for word in ("B1", "B2", "B3", "B4", "B5"):
        assert board.play(-1, action_of(word, 5))
    assert board.play(1, action_of("E3", 5)) and board.play(-1, action_of("D3", 5))
    thinker.search(2000)
    before = {each.action: each for each in thinker.candidates()}
    assert board.play(1, 25)
    thinker.follow(25)
    action, rate = thinker.choose()
    candidates = {each.action: each for each in thinker.candidates()}
    assert action == 25 and candidates[25].win_rate == 1.0 and candidates[25].line == [25] and rate == 1.0
    assert before[25].win_rate < 0.5  # for Black passing first loses: White answers with a pass
    board.set_komi(-30.5)
    thinker.forget()
    thinker.choose()
    assert {each.action: each for each in thinker.candidates()}[25].win_rate == 0.0  # and now the same pass loses


def test_trees_are_kept_where_players_follow_them() -> None:
    to = session(simulations=64)
    talk(to, "genmove b")
    kept = to.thinker.visits()
    assert 0 < kept < 64
    answer = to.thinker.candidates()[0].action
    talk(to, f"play w {'ABCDE'[answer % 5]}{5 - answer // 5}")
    assert 0 < to.thinker.visits() < kept
    for change in ("komi 3.5", "undo", "play w A1", "clear_board"):
        to.thinker.search(32)
        talk(to, change)
        assert to.thinker.visits() == 0, change
        talk(to, "play b E1")


def test_analysis_as_lizzie_and_sabaki_read_it() -> None:
    to = session(simulations=50)
    answers = talk(to, "lz-analyze b 10", "12 kata-analyze 10 ownership true", "lz-analyze interval 1 maxmoves 1")
    lizzie = re.compile(
        r"info move ([A-E][1-5]|pass) visits \d+ winrate \d+ prior \d+ lcb \d+ order (\d+) pv( [A-E][1-5]| pass)+"
    )
    assert answers[0].startswith("=\ninfo move C3 ")
    orders = [int(found[2]) for found in lizzie.finditer(answers[0].splitlines()[1])]
    assert orders == list(range(len(orders))) and orders
    head, line = answers[1].splitlines()[:2]
    assert head == "=12" and re.match(r"info move \S+ visits \d+ utility -?[\d.]+ winrate 0\.\d+ ", line)
    assert answers[2].count("info") == 1
    answers = talk(to, "7 genmove_analyze b 10", "kata-genmove_analyze w", "lz-genmove_analyze b avoid b C3,C2 1",
                   "showboard")  # fmt: skip
    assert answers[0].startswith("=7\ninfo") and answers[0].splitlines()[-1] == "play C3"
    assert re.search(r"\nplay [A-E][1-5]$", answers[1]) and answers[2].splitlines()[-1] not in ("play C3", "play C2")
    assert sum(row.count("X") for row in answers[3].splitlines()) == 2
    first = [int(visits) for visits in re.findall(r"visits (\d+)", answers[0].splitlines()[-2])]
    assert sum(first) == 50 and first == sorted(first, reverse=True)


def test_records_come_back(tmp_path: Path) -> None:
    board = Board(Go(5))
    for colour, word in ((1, "C3"), (-1, "C2"), (1, "D2"), (-1, "pass")):
        board.play(colour, action_of(word, 5))
    content = write_sgf(Record(5, 6.5, board.moves, ("a", "b"), "B+R", (None, 0.25, 0.5, None), 1, "a game"))
    assert b"C[Black wins 25.0 %]" in content and b"RE[B+R]" in content and b"C[random opening]" in content
    (tmp_path / "a game.sgf").write_bytes(content)
    to = session()
    assert talk(to, f"loadsgf {tmp_path}/a game.sgf") == ["="]
    assert (to.board.stones() == board.stones()).all() and to.board.komi == 6.5 and to.board.mover == 1
    talk(to, f"loadsgf {tmp_path}/a game.sgf 3")
    assert np.abs(to.board.stones()).sum() == 2 and to.board.mover == 1
    (tmp_path / "setup.sgf").write_text("(;SZ[5]KM[0]AB[aa][bb]AW[cc]PL[W];W[dd])")
    talk(to, f"loadsgf {tmp_path}/setup.sgf")
    assert to.board.stones()[0, 0] == 1 and to.board.stones()[3, 3] == -1 and to.board.mover == 1


def test_resignation_is_off_unless_it_is_asked_for() -> None:
    lost = ["komi 100", "play w A1", "play b pass", "play w B1", "play b pass", "play w C1", "genmove b"]
    assert talk(session(), *lost)[-1] != "= resign"
    assert talk(session(resign=0.2), *lost)[-1] == "= resign"
    assert talk(session(resign=0.2), *lost[:-1], "genmove_analyze b")[-1].endswith("play resign")


def test_the_clock_shares_its_time() -> None:
    clock = Clock(9)
    assert clock.seconds(1, 0) is None
    clock.set(60, 0, 0)
    assert 0.5 < clock.seconds(1, 0) < 60 / 20 and clock.seconds(1, 70) > clock.seconds(1, 0)  # type: ignore[operator]
    clock.set_left(1, 3, 0)
    assert 0.05 <= clock.seconds(1, 40) <= 0.3  # type: ignore[operator]
    clock.set_left(1, 10, 5)
    assert 1 < clock.seconds(1, 40) < 2  # type: ignore[operator]
    clock.set(0, 10, 5)
    assert 1 < clock.seconds(-1, 0) < 2  # type: ignore[operator]
    clock.set(10, 5, 0)
    assert clock.seconds(1, 0) is None
    to = session(simulations=20_000)
    talk(to, "time_settings 1 0 0", "time_left b 1 0", "genmove b")
    assert to.board.stones().sum() == 1  # within its share, not after 20,000 simulations
    assert to.thinker.visits() < 10_000


def test_lines_are_read_as_the_protocol_says() -> None:
    assert parse("  \t\r\n") is None and parse("# only a comment") is None
    found = parse("007 play\tb  D4\r # here")
    assert found is not None and (found.number, found.name, found.arguments) == ("007", "play", ["b", "D4"])
    out = io.StringIO()
    serve(session(), iter(["name"]), out)  # the input ends within a line
    assert out.getvalue() == "= rayloom test\n\n"
    assert score_text(0.0) == "0" and score_text(-0.5) == "W+0.5" and score_text(3) == "B+3"

    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    serve(session(), ["name\n"], Closed())  # nobody reads any more
