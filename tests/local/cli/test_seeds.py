"""`rayloom run --seeds` and what `rayloom compare` says about runs that differ in their seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from scipy import stats

import rayloom
from cases import case
from rayloom.cli.main import main
from rayloom.errors import UserError
from rayloom.launch import seeds as launch
from rayloom.launch.seeds import run_seeds
from rayloom.runs.jobs import JOB, job_tag


def config_file(folder: Path, **changes: Any) -> str:
    """Write the config of short runs into a file, and return its name."""
    tree = {**case("softmax_regression", str(folder / "runs")).to_tree(), "stop": {"updates": 4}, **changes}
    tree["evaluate"]["every"] = None
    path = folder / "short.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in tree.items() if key != "seed"}))
    return str(path)


def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, dict[str, Any]]:
    """Run a command; return its code, what it said, and its JSON line."""
    code = main([*words, "--json"])
    captured = capsys.readouterr()
    return code, captured.err, json.loads(captured.out)


def test_seeds_are_run_and_told_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_file(tmp_path)
    code, human, line = told(capsys, "run", config, "--seeds", "3", "--local", "--quiet")
    assert code == 0 and line["status"] == "FINISHED"
    folders = [Path(run["run_dir"]) for run in line["runs"]]
    written = [yaml.safe_load((folder / "config.yaml").read_text())["seed"] for folder in folders]
    assert written == [0, 1, 2] and folders[1].name == f"job-{line['run_id']}-seed-1"
    assert [job_tag(folder)["rayloom.group"] for folder in folders] == [line["run_id"]] * 3
    accuracy = [run["metrics"]["evaluate/accuracy"] for run in line["runs"]]
    assert len(set(accuracy)) > 1
    found = line["seeds"]["metrics"]["evaluate/accuracy"]
    assert found["interquartile_mean"] == pytest.approx(float(stats.trim_mean(accuracy, 0.25))) and found["runs"] == 3
    assert min(accuracy) <= found["low"] < found["high"] <= max(accuracy)
    assert "interquartile mean [95 %" in human
    single = rayloom.run(config, "seed=1", local=True)
    assert single.weights_sha256 == json.loads((folders[1] / "result.json").read_text())["weights_sha256"]

    code, human, line = told(capsys, "compare", line["run_id"], "--output", str(tmp_path / "runs"))
    assert code == 0 and line["differing"] == {"seed": [0, 1, 2]}
    (group,) = line["groups"]
    assert group["runs"] == [folder.name for folder in folders]
    assert group["metrics"]["evaluate/accuracy"] == found and "A B C: 3 runs" in human


def test_the_same_call_goes_on_and_a_larger_number_adds_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, trained = config_file(tmp_path), list[int]()
    real = launch.run

    def interrupted(typed: Any, **given: Any) -> Any:
        if typed.seed == 1 and not trained.count(1):
            trained.append(1)
            raise KeyboardInterrupt
        trained.append(typed.seed)
        return real(typed, **given)

    monkeypatch.setattr(launch, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_seeds(config, seeds=2, local=True)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("job-*/internal/journal.jsonl")}
    assert len(before) == 1
    done = run_seeds(config, seeds=2, local=True)
    more = run_seeds(config, seeds=3, local=True)
    assert more.group == done.group and more.results[:2] == done.results and len(more.results) == 3
    assert {path: path.stat().st_mtime_ns for path in before} == before, "what had finished is not trained again"
    assert len(list((tmp_path / "runs").iterdir())) == 3
    other = run_seeds(config, "learner.batch_size=32", seeds=1, local=True)
    assert other.group != done.group


def test_an_interrupted_call_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = launch.run

    def interrupted(typed: Any, **given: Any) -> Any:
        if typed.seed == 1:
            raise KeyboardInterrupt
        return real(typed, **given)

    monkeypatch.setattr(launch, "run", interrupted)
    code, human, line = told(capsys, "run", config_file(tmp_path), "--seeds", "2", "--local", "--quiet")
    assert code == 130 and "go on with the same command" in human and line["status"] == "KILLED"


def test_a_group_can_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, line = told(capsys, "run", config_file(tmp_path), "--seeds", "1", "--job", "mine", "--local", "--quiet")
    assert code == 0 and line["run_id"] == "mine"
    kept = json.loads((tmp_path / "runs" / "job-mine-seed-0" / JOB).read_text())
    assert kept["job"] == "mine-seed-0" and kept["group"] == "mine"


def test_groups_differ_in_more_than_their_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, output = config_file(tmp_path), str(tmp_path / "runs")
    names = [
        rayloom.run(config, f"seed={seed}", f"learner.batch_size={size}", local=True).run_dir.name
        for size in (32, 64)
        for seed in (0, 1)
    ]
    picture = tmp_path / "seeds.png"
    code, human, line = told(capsys, "compare", *names, "--output", output, "--figure", str(picture))
    assert code == 0 and [group["runs"] for group in line["groups"]] == [names[:2], names[2:]]
    assert "A B: 2 runs" in human and "C D: 2 runs" in human
    assert picture.read_bytes().startswith(b"\x89PNG")
    code, human, line = told(capsys, "compare", *names, "--output", output, "--across", "learner.batch_size")
    assert [group["runs"] for group in line["groups"]] == [names]
    values = [run["metrics"]["evaluate/loss"] for run in line["runs"]]
    found = line["groups"][0]["metrics"]["evaluate/loss"]
    assert found["interquartile_mean"] == pytest.approx(float(stats.trim_mean(values, 0.25)))
    # Each task has its own two runs in every resample, so that the interval is no wider than their mixtures allow.
    low, high = (sorted([chosen(values[:2])] * 2 + [chosen(values[2:])] * 2) for chosen in (min, max))
    assert found["low"] >= sum(low[1:3]) / 2 - 1e-9 and found["high"] <= sum(high[1:3]) / 2 + 1e-9
    code, human, line = told(capsys, "compare", names[0], names[2], "--output", output)
    assert code == 0 and line["groups"] == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("seed=3", "--seeds", "2"), "leave out seed="),
        (("--seeds", "2", "--chaos", "rollout=1"), "leave out --seeds"),
    ],
)
def test_what_does_not_go_together_is_told(
    words: tuple[str, ...], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", config_file(tmp_path), *words, "--local"]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_what_cannot_be_compared_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, output = config_file(tmp_path), str(tmp_path / "runs")
    names = [rayloom.run(config, f"learner.batch_size={size}", local=True).run_dir.name for size in (32, 64)]
    for more, sentence in (
        (("--figure", "x.png"), "differ in their seed alone"),
        (("--across", "source.envv"), "none of these runs has the key 'source.envv'"),
    ):
        assert main(["compare", *names, "--output", output, *more]) == 2
        assert sentence in capsys.readouterr().err
    with pytest.raises(UserError, match="--seeds: 0 runs"):
        run_seeds(config, seeds=0, local=True)
