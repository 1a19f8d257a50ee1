"""The client of external engines: answers, refusals, and engines that die, hang or speak nonsense."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from rayloom.errors import UserError
from rayloom_agents.alphago.gtp.client import Engine, EngineLost, EngineRefused
from rayloom_agents.alphago.gtp.coordinates import RESIGN, action_of, colour_of, vertex
from rayloom_agents.alphago.gtp.gnugo import gnugo_command, gnugo_program

ENGINE = r"""
import os, subprocess, sys, time
for line in sys.stdin:
    number, _, command = line.strip().partition(" ")
    if command == "quit":
        print(f"={number}\n", flush=True)
        break
    elif command == "board":
        sys.stdout.write(f"={number}\r\n  A B\r\n 1 . .\r\n\r\n")
    elif command == "plain":
        sys.stdout.write("\n= no number\n\n")
    elif command == "refuse":
        print(f"?{number} cannot do that\n")
    elif command == "die":
        sys.stderr.write("line 1\nline 2\nout of luck\n")
        os._exit(3)
    elif command == "child":
        print(f"={number} {subprocess.Popen(['sleep', '60']).pid}\n")
    elif command == "hang":
        print(f"={number} half an answer", flush=True)
        time.sleep(60)
    elif command == "nonsense":
        print("hello there\n")
    elif command == "stale":
        print("=77 D4\n")
    elif command == "flood":
        sys.stderr.write("x" * 1_000_000 + "\n")
        print(f"={number} " + "y" * 500_000 + "\n")
    else:
        print(f"={number} {command}\n")
    sys.stdout.flush()
"""


def engine(**settings: float) -> Engine:
    """Return a running engine that misbehaves when it is told to."""
    return Engine([sys.executable, "-S", "-c", ENGINE], name="fake", **settings)  # type: ignore[arg-type]


def gone(pid: int) -> bool:
    """Return whether a process ends within a moment (a zombie has ended)."""
    for _ in range(200):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.01)
    return False


def test_answers_refusals_and_a_restart() -> None:
    with engine() as fake:
        assert fake.ask("play b D4") == "play b D4"
        assert fake.ask("board") == "  A B\n 1 . ."
        assert fake.ask("plain") == "no number"
        assert len(fake.ask("flood")) == 500_000
        with pytest.raises(EngineRefused, match=r"^engine fake refuses 'refuse': cannot do that$"):
            fake.ask("refuse")
        child = int(fake.ask("child"))
        fake.restart()
        assert gone(child)
        assert fake.ask("still") == "still"
        with pytest.raises(ValueError, match="no command of one line"):
            fake.ask("play b D4\nquit")
    fake.close()
    with pytest.raises(EngineLost, match="is not running"):
        fake.ask("name")


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("die", r"engine fake died when it was asked 'die'; its last words: line 1 / line 2 / out of luck$"),
        ("hang", r"engine fake did not answer 'hang' in time$"),
        ("nonsense", r"answered 'nonsense' with 'hello there', which is no answer of GTP"),
        ("stale", r"answered 'stale' with '=77 D4'"),
    ],
)
def test_a_lost_engine_is_killed_with_its_children(command: str, told: str) -> None:
    fake = engine()
    child = int(fake.ask("child"))
    with pytest.raises(EngineLost, match=told):
        fake.ask(command, 0.2 if command == "hang" else None)
    assert gone(child)
    with pytest.raises(EngineLost, match="is not running"):
        fake.ask("name")
    fake.restart()
    assert fake.ask("name") == "name"
    fake.close()


def test_a_program_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^engine nothing: /no/nothing cannot be started: No such file or directory$"):
        Engine(["/no/nothing"])
    with pytest.raises(UserError, match="command is empty"):
        Engine([])
    (tmp_path / "text").write_text("no program")
    os.chmod(tmp_path / "text", 0o755)
    with pytest.raises(UserError, match="cannot be started: Exec format error"):
        Engine([str(tmp_path / "text")])


def test_points_have_the_names_of_the_protocol() -> None:
    assert [vertex(0, 9), vertex(8, 9), vertex(72, 9), vertex(80, 9), vertex(81, 9)] == ["A9", "J9", "A1", "J1", "pass"]
    assert vertex(0, 19) == "A19" and vertex(360, 19) == "T1" and vertex(RESIGN, 9) == "resign"
    for size in range(2, 20):
        assert [action_of(vertex(action, size), size) for action in range(size * size + 1)] == list(
            range(size * size + 1)
        )
    assert action_of(" d4 ", 5) == 8 and action_of("Pass", 5) == 25 and action_of("resign", 5) == RESIGN
    for word in ("I5", "A0", "A6", "F1", "D", "", "4D", "D4 D5", "A01", "Ä1", "A¹", "U1"):
        with pytest.raises(ValueError, match="is no point of a board of 5 lines"):
            action_of(word, 5)
    assert [colour_of(word) for word in ("b", "BLACK", "W", "white")] == [1, 1, -1, -1]
    with pytest.raises(ValueError, match="no colour"):
        colour_of("blue")


@pytest.mark.skipif(gnugo_program() is None, reason="GNU Go is not installed (Debian's package gnugo)")
def test_gnu_go_answers() -> None:
    with Engine(gnugo_command(5, level=1, seed=3)) as gnugo:
        assert gnugo.ask("protocol_version") == "2"
        assert gnugo.ask("query_boardsize") == "5"
        gnugo.ask("play b C3")
        assert action_of(gnugo.ask("genmove w"), 5) in range(26)
        with pytest.raises(EngineRefused, match="illegal move"):
            gnugo.ask("play b C3")
        assert gnugo.ask("get_komi") == "7.5"
