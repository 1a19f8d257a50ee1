"""Commands that families add: a network of Go from its run to a player that answers over GTP, and what is recorded."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rayloom
from go_players import TREE
from rayloom.cli.main import main
from rayloom.config.load import from_tree
from rayloom.errors import UserError
from rayloom.launch.hosting import RunHost
from rayloom.runs.parcels import PARCEL, WEIGHTS, load_parcel
from rayloom_agents.alphago.gtp.client import Engine, EngineRefused
from rayloom_agents.alphago.gtp.command import descriptor_lines, only_answers
from rayloom_agents.alphago.players import FOLDER, go_of, load_player, shipped_players

pytestmark = pytest.mark.xdist_group("family_commands")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a network for 5 lines by one update, recorded in MLflow."""
    output = tmp_path_factory.mktemp("runs")
    tree = {**TREE, "name": "tiny", "output": str(output), "tracking": {"pictures": False, "system_metrics": False}}
    return rayloom.run(from_tree(tree), local=True).run_dir


@pytest.fixture(scope="module")
def parcel(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write that network as a player."""
    folder = tmp_path_factory.mktemp("players") / "tiny5"
    words = ["player", run_dir.name, str(folder), "--output", str(run_dir.parent), "--made-by", "rayloom run tiny"]
    assert main([*words, "--note", "hardly trained"]) == 0
    return folder


def test_a_parcel_judges_as_its_run_and_holds_nothing_else(run_dir: Path, parcel: Path, capsys: Any) -> None:
    assert sorted(path.name for path in parcel.iterdir()) == [PARCEL, WEIGHTS]
    text = (parcel / PARCEL).read_text()
    assert str(run_dir.parent) not in text and "mlflow" not in text and "rayloom run tiny" in text
    found, trained = load_parcel(parcel), rayloom.load(run_dir.name, output=str(run_dir.parent))
    assert found.weights == "last weights (update 1)" and found.about["note"] == "hardly trained"
    assert dict(found.spec) == dict(trained.spec) and not found.algorithm.training
    planes = np.random.default_rng(0).random((3, 18, 5, 5), np.float32)
    for mine, theirs in zip(found.algorithm.infer(planes), trained.algorithm.infer(planes), strict=True):  # type: ignore[operator]
        assert (mine == theirs).all()
    capsys.readouterr()
    assert main(["player", run_dir.name, str(parcel), "--output", str(run_dir.parent)]) == 2
    assert "holds something already; name another folder" in capsys.readouterr().err


def test_a_damaged_parcel_is_one_sentence(parcel: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no parcel of a trained algorithm: No such file"):
        load_parcel(tmp_path)
    (tmp_path / PARCEL).write_text((parcel / PARCEL).read_text())
    (tmp_path / WEIGHTS).write_bytes((parcel / WEIGHTS).read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="is damaged: it is not the file that was written"):
        load_parcel(tmp_path)
    (tmp_path / WEIGHTS).write_bytes((parcel / WEIGHTS).read_bytes())
    (tmp_path / PARCEL).write_text((parcel / PARCEL).read_text().replace("channels: 8", "channels: 16"))
    with pytest.raises(UserError, match=r"AlphaZero takes other weights by now: .*size mismatch"):
        load_parcel(tmp_path)
    (tmp_path / PARCEL).write_text("config: {}")
    with pytest.raises(UserError, match="is damaged: parts of it are missing"):
        load_parcel(tmp_path)


def test_players_are_found_by_name_by_folder_and_by_run(run_dir: Path, parcel: Path) -> None:
    host = RunHost(str(run_dir.parent), sys.stderr)
    assert shipped_players(parcel.parent) == ["tiny5"]
    for name, title in (("tiny5", "tiny5"), (str(parcel), "tiny5"), (run_dir.name, run_dir.name.split("-", 2)[2])):
        player = load_player(host, name, simulations=32, folder=parcel.parent)
        assert player.name == title and player.search.simulations == 32
        game = go_of(player)
        assert (game.size, game.komi, game.max_plies) == (5, 7.5, 100)
    with pytest.raises(UserError, match=r"there is no run 'go7x7'.*; players by name: tiny5$"):
        load_player(host, "go7x7", folder=parcel.parent)


@pytest.mark.parametrize("name", shipped_players())
def test_a_shipped_player_plays(name: str, tmp_path: Path) -> None:
    assert sum(path.stat().st_size for path in (FOLDER / name).iterdir()) < 8_000_000
    player = load_player(RunHost(str(tmp_path), sys.stderr), name)
    game = go_of(player)
    logits, value = player.infer(game.observe(game.start(2)))
    assert logits.shape == (2, game.num_actions) and np.isfinite(logits).all() and (abs(value) <= 1).all()
    assert player.learnt.about.get("made_by") and player.learnt.about.get("note")


def test_the_program_answers_over_gtp_and_says_nothing_else_there(parcel: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rayloom", "gtp", str(parcel), "--simulations", "16", "--output", str(tmp_path)]
    with Engine(command, deadline_s=120, name="ours") as engine:
        assert engine.ask("protocol_version") == "2" and engine.ask("name") == "rayloom tiny5"
        with pytest.raises(EngineRefused, match="unacceptable size: this network was made for 5 lines, not 19"):
            engine.ask("boardsize 19")
        engine.ask("play b C3")
        assert engine.ask("genmove w") != "C3" and "X" in engine.ask("showboard")
        assert engine.ask("lz-genmove_analyze b 5").splitlines()[-1].startswith("play ")
    ended = subprocess.run(command, input="1 name\n2 quit\n3 name", capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout) == (0, "=1 rayloom tiny5\n\n=2\n\n"), ended.stderr
    assert ended.stderr == "rayloom: rayloom tiny5 is ready, 5 lines, 16 simulations\n"


def test_what_else_prints_goes_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    with only_answers() as out:
        print("a remark")
        os.write(1, b"a library in C\n")
        out.write("= yes\n\n")
    print("later")
    found = capfd.readouterr()
    assert found.out == "= yes\n\nlater\n" and found.err == "a remark\na library in C\n"
    reader, writer = os.pipe()
    os.write(writer, "name\nplay b \xff\nqu".encode("latin-1"))
    os.close(writer)
    assert list(descriptor_lines(reader)) == ["name", "play b \ufffd", "qu"]
    os.close(reader)


def test_a_match_is_added_to_a_run_that_has_ended_and_nothing_else_changes(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def known() -> tuple[Any, ...]:
        with sqlite3.connect(run_dir.parent / "mlflow.db") as store:
            status = store.execute("select status from runs").fetchall()
            params = store.execute("select key, value from params order by key").fetchall()
            tags = store.execute("select key, value from tags order by key").fetchall()
        return status, params, [each for each in tags if not each[0].startswith("rayloom.model")]

    (artifacts,) = (run_dir.parent / "mlartifacts").glob("*/artifacts")
    environment, before = (artifacts / "environment.json").read_bytes(), known()
    assert before[0] == [("FINISHED",)]
    words = ["match", run_dir.name, "search:4", "random", "--output", str(run_dir.parent), "--pictures", "2"]
    settings = ["--games", "2", "--parallel", "1", "--destination", str(tmp_path / "m"), "--json"]
    assert main([*words, *settings]) == 0
    written = capsys.readouterr()
    told = json.loads(written.out)
    assert told["status"] == "FINISHED" and told["games"] == 2 and "search:4 against random" in written.err
    assert known() == before and (artifacts / "environment.json").read_bytes() == environment
    (folder,) = (artifacts / "matches").iterdir()
    assert (folder / "result.txt").read_text() == (tmp_path / "m/result.txt").read_text()
    assert (folder / "games/0001.sgf").is_file() and (artifacts / "figures/match/games").is_dir()
    assert json.loads((run_dir / "result.json").read_text())["status"] == "FINISHED"
    assert main(["match", "nothing", "random", "random", "--output", str(run_dir.parent), "--json"]) == 2
    written = capsys.readouterr()
    assert json.loads(written.out)["status"] == "FAILED" and written.err.count("\n") == 1
