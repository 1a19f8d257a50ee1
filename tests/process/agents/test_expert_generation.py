"""Games of a Go program against itself: the same files whatever the number of processes, resumed, one sentence."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rayloom_agents.alphago.experts import generate
from rayloom_agents.alphago.experts.sgf import read_folder
from rayloom_agents.alphago.games import Go
from rayloom_agents.alphago.gtp.gnugo import gnugo_program

PROGRAM = """
import random, sys
size, seed, fault = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
chance, free, moves = random.Random(seed), [l + str(n) for l in "ABCDEFGHJ"[:size] for n in range(1, size + 1)], 0
chance.shuffle(free)
for line in sys.stdin:
    number, command, *words = line.split()
    answer = ""
    if command == "play":
        free.remove(words[1])
    if command == "genmove":
        moves += 1
        answer = "pass" if moves > 6 else free.pop()
        if fault == "illegal" and moves == 3:
            answer = last
        last = answer
        if fault == "dies":
            sys.exit(1)
    print(f"={number} {answer}\\n", flush=True)
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Put a small program in the place of GNU Go; return the arguments that it was started with."""
    path, started = tmp_path / "program.py", []
    path.write_text(PROGRAM)

    def command(size: int, level: int, komi: float, seed: int) -> list[str]:
        started.append([str(size), str(seed), "none"])
        assert level in (1, 5) and komi == 7.5
        return [sys.executable, "-S", str(path), *started[-1]]

    monkeypatch.setattr(generate, "gnugo_command", command)
    return started


def files(folder: Path) -> dict[str, bytes]:
    """Return the contents of a folder's files."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def run(folder: Path, *options: str) -> int:
    """Run the command for 5x5."""
    return generate.main([str(folder), "--size", "5", "--level", "1", "5", "--opening", "1", "3", *options])


def test_any_number_of_processes_writes_the_same_games(tmp_path: Path, program: list[list[str]]) -> None:
    one, three = tmp_path / "one", tmp_path / "three"
    assert run(one, "--games", "5", "--table", str(tmp_path / "games.npz")) == 0
    assert run(three, "--games", "5", "--processes", "3") == 0
    assert files(one) == files(three) and len(set(files(one).values())) == 5
    assert len({seed for _, seed, _ in program}) == 5  # each game has a seed of its own
    games = read_folder(one, Go(5)).table
    assert set(games.opening.tolist()) <= {1, 2, 3} and len(set(games.opening.tolist())) > 1
    assert (games.actions[:, :5] < 25).all() and (games.actions[range(5), games.lengths - 1] == 25).all()
    run(tmp_path / "other", "--games", "5", "--seed", "1")
    assert not set(files(tmp_path / "other").values()) & set(files(one).values())


def test_what_is_there_is_not_played_again(tmp_path: Path, program: list[list[str]]) -> None:
    run(tmp_path / "games", "--games", "4")
    whole = files(tmp_path / "games")
    (tmp_path / "games" / "game-000001.sgf").unlink()
    kept = "(;SZ[5]KM[7.5]RE[B+1];B[aa];W[bb])"
    (tmp_path / "games" / "game-000002.sgf").write_text(kept)
    program.clear()
    assert run(tmp_path / "games", "--games", "4") == 0 and len(program) == 1
    assert files(tmp_path / "games") == {**whole, "game-000002.sgf": kept.encode()}


@pytest.mark.parametrize("fault", ["illegal", "dies"])
def test_a_program_that_breaks_off_is_one_sentence(
    fault: str, tmp_path: Path, program: list[list[str]], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    inner = generate.gnugo_command
    monkeypatch.setattr(generate, "gnugo_command", lambda *words: [*inner(*words)[:-1], fault])
    assert run(tmp_path / "games", "--games", "1") == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said and ("what our rules forbid" if fault == "illegal" else "died") in said
    assert not list((tmp_path / "games").iterdir())


def test_options_that_make_no_sense_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options in (["--games", "0"], ["--games", "2", "--opening", "5", "2"], ["--games", "2", "--seed", "-1"]):
        with pytest.raises(SystemExit) as ended:
            run(tmp_path / "games", *options)
        assert ended.value.code == 2
    assert "--opening FEWEST MOST" in capsys.readouterr().err


@pytest.mark.skipif(gnugo_program() is None, reason="GNU Go is not installed")
def test_gnu_go_plays_by_our_rules_and_repeats_itself(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        assert run(tmp_path / folder, "--games", "2", "--processes", "2") == 0
    assert files(tmp_path / "one") == files(tmp_path / "two")
    games = read_folder(tmp_path / "one", Go(5)).table
    assert (games.lengths > 5).all() and (abs(games.result) < 40).all()
