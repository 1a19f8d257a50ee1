"""`rayloom runs`, `compare` and `rm`: what a person finds out about runs that are there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import rayloom
from cases import case
from rayloom.cli.main import main
from rayloom.config.load import parse_yaml
from rayloom.config.search import SearchConfig
from rayloom.runs.folders import RESULT
from rayloom.tracking.journal import PROCESS, own_process

Output = Path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Output:
    """Return an output folder with two short runs and a study of one trial."""
    output = tmp_path_factory.mktemp("past")
    for seed in (3, 4):
        rayloom.run({**case("softmax_regression", str(output)).to_tree(), "seed": seed}, "stop.epochs=1", local=True)
    tree = case("softmax_regression", str(output)).to_tree()
    search: dict[str, Any] = {"space": {"seed": [9]}, "sampler": "grid", "metric": "evaluate/accuracy"}
    assert SearchConfig(**search)
    rayloom.run_study({**tree, "name": "tiny_study", "search": search}, "stop.epochs=1", local=True)
    return output


@pytest.fixture
def output(trained: Output, tmp_path: Path) -> Output:
    """Return a copy that a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "runs"))


def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, dict[str, Any]]:
    """Run a command; return its code, what it said, and its JSON line."""
    code = main([*words, "--json"])
    captured = capsys.readouterr()
    return code, captured.err, json.loads(captured.out)


def names(output: Output) -> list[str]:
    """Return the names of the two runs by their seed: both may have begun within one second."""
    files = output.glob("*/config.yaml")
    return [file.parent.name for file in sorted(files, key=lambda file: parse_yaml(file.read_text(), "it")["seed"])]


def test_runs_are_listed_with_how_they_ended(output: Output, capsys: pytest.CaptureFixture[str]) -> None:
    code, human, line = told(capsys, "runs", "--output", str(output))
    assert code == 0
    runs = {run["name"]: run for run in line["runs"]}
    assert len(runs) == 3 and set(names(output)) < set(runs)
    first = runs[names(output)[0]]
    assert (first["status"], first["stopped_by"], first["kind"]) == ("FINISHED", "epochs >= 1", "run")
    accuracy = json.loads((output / names(output)[0] / RESULT).read_text())["metrics"]["evaluate/accuracy"]
    assert first["metrics"]["evaluate/accuracy"] == float(accuracy) and first["counters"]["epochs"] == 1
    rows = human.splitlines()
    assert rows[0].split() == ["run", "status", "seed", "result"] and len(rows) == 4
    assert [row.split()[1] for row in rows[1:]] == ["FINISHED"] * 3
    assert any(row.endswith("a study") for row in rows)


def test_what_died_without_a_word_is_lost_and_what_lives_is_running(
    output: Output, capsys: pytest.CaptureFixture[str]
) -> None:
    lost, running = names(output)
    for name in (lost, running):
        (output / name / RESULT).unlink()
    (output / lost / PROCESS).write_text(json.dumps({**own_process(), "created": 1.0}))
    (output / running / PROCESS).write_text(json.dumps(own_process()))
    _, _, line = told(capsys, "runs", "--output", str(output))
    status = {run["name"]: run["status"] for run in line["runs"]}
    assert (status[lost], status[running]) == ("LOST", "RUNNING")
    metrics = next(run["metrics"] for run in line["runs"] if run["name"] == lost)
    assert metrics["evaluate/accuracy"] > 0.1, "the journal has them still"
    _, human, line = told(capsys, "runs", "--output", str(output), "--status", "lost")
    assert [run["name"] for run in line["runs"]] == [lost] and running not in human
    code, human, _ = told(capsys, "rm", running, "--output", str(output))
    assert code == 2 and "is still running; stop it first" in human and (output / running).is_dir()


@pytest.mark.parametrize("damage", ["", "[1, 2]", "name: [", '{"a": 1', "\x00"])
@pytest.mark.parametrize("file", ["config.yaml", RESULT])
def test_one_damaged_run_does_not_hide_the_others(
    damage: str, file: str, output: Output, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged, whole = names(output)
    (output / damaged / file).write_text(damage)
    code, _, line = told(capsys, "runs", "--output", str(output))
    assert code == 0
    assert whole in [run["name"] for run in line["runs"]]
    assert len(line["runs"]) + len(line["unreadable"]) == 3


def test_compare_shows_what_differs_and_what_was_reached(output: Output, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = names(output)
    code, human, line = told(capsys, "compare", first, second, "--output", str(output))
    assert code == 0
    assert line["differing"] == {"seed": [3, 4]}
    rows = [row.split() for row in human.splitlines()]
    assert ["A", first] in rows and ["B", second] in rows and ["seed", "3", "4"] in rows
    # Once side by side, and once together, since the two differ in their seed alone.
    beside, together = (row for row in rows if row[:1] == ["evaluate/accuracy"])
    assert len(beside) == 3 and together[-2:] == ["2", "runs"]
    code, human, _ = told(capsys, "compare", first, "--output", str(output))
    assert code == 2 and "compare needs at least two runs" in human


def test_a_removed_run_is_gone_and_others_stay(output: Output, capsys: pytest.CaptureFixture[str]) -> None:
    gone, stays = names(output)
    code, _, line = told(capsys, "rm", gone, "--output", str(output))
    assert code == 0 and line["removed"] == [str(output / gone)]
    assert not (output / gone).exists() and (output / stays).is_dir()
    code, human, _ = told(capsys, "rm", gone, "--output", str(output))
    assert code == 2 and f"there is no run {gone!r}" in human


def test_a_study_goes_as_a_whole(output: Output, capsys: pytest.CaptureFixture[str]) -> None:
    study = next(path.parent.name for path in output.glob("*/study.yaml"))
    code, human, _ = told(capsys, "rm", f"{study}/0000", "--output", str(output))
    assert code == 2 and "a study goes as a whole" in human and (output / study / "trials" / "0000").is_dir()
    assert told(capsys, "rm", study, "--output", str(output))[0] == 0
    assert not (output / study).exists()


def test_without_a_folder_there_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, human, _ = told(capsys, "runs", "--output", str(tmp_path / "nothing"))
    assert code == 2 and "there is no folder" in human
