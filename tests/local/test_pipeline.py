"""Pipelines: stages that start from stages, going on with what is not finished, mistakes told before the first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rayloom.cli.main import main
from rayloom.config.load import shipped_configs, shipped_pipelines
from rayloom.errors import UserError
from rayloom.launch.pipeline import _stage_trees, _typed, run_pipeline
from rayloom.launch.pipeline_seeds import run_pipeline_seeds
from rayloom.runs.folders import load_run_config, read_result
from rayloom.runs.inputs import recorded_inputs
from rayloom.runs.observer import Observer
from rayloom.tracking.journal import last_start, read_metrics
from rayloom.tracking.tracker import Tracker

STAGES = """
stages:
  first:
    config: reinforce_self_play_go5x5
    settings: {source: {game: tic_tac_toe, num_envs: 8}, learner: {batch_size: 16}, evaluate: {every: null}}
  second:
    config: reinforce_self_play_go5x5
    settings:
      source: {game: tic_tac_toe, num_envs: 8}
      learner: {batch_size: 16}
      evaluate: {every: null}
      start_from: {run: "stage:first", include: ["network.*"]}
"""
SMALL = ("stop.updates=2", "tracking.enabled=false")


def written(tmp_path: Path, text: str = STAGES) -> str:
    """Write a pipeline and return its path."""
    path = tmp_path / "small.yaml"
    path.write_text(text)
    return str(path)


def test_a_stage_starts_from_an_earlier_one_and_all_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tracker, "wait_run_id", lambda self, timeout_s: "parent-run")
    file, output = written(tmp_path), f"output={tmp_path / 'runs'}"
    begun: list[str] = []

    def stop_at_second(stage: str) -> Observer:
        begun.append(stage)
        if stage == "second" and len(begun) == 2:
            raise KeyboardInterrupt
        return Observer()

    with pytest.raises(KeyboardInterrupt):
        run_pipeline(file, *SMALL, output, local=True, observe=stop_at_second)
    done = run_pipeline(file, *SMALL, output, local=True, observe=stop_at_second)
    first, second = done.stages["first"], done.stages["second"]
    assert begun == ["first", "second", "first", "second"] and first.counters["updates"] == 2
    taken = recorded_inputs(second.run_dir)["start_from"]
    assert taken["run_id"] == first.run_dir.name and taken["step"] == 2
    start, _ = last_start(second.run_dir) or ({}, 0)
    assert start["tags"]["mlflow.parentRunId"] == "parent-run" and start["tags"]["rayloom.group"] == done.job
    told = {key for _, key, _ in read_metrics(done.folder)}
    assert {"first/train/loss", "second/train/loss"} <= told
    again = run_pipeline(file, *SMALL, output, local=True)
    assert again.stages["second"].weights_sha256 == second.weights_sha256 != first.weights_sha256
    other = run_pipeline(file, *SMALL, output, "second.stop.updates=3", local=True)
    assert other.job != done.job and other.stages["second"].counters["updates"] == 3


def test_seeds_are_pipelines_that_share_the_stages_with_a_seed_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own_seed = STAGES.replace("settings: {source: {game", "settings: {seed: 7, source: {game", 1)
    command = ["pipeline", written(tmp_path, own_seed), *SMALL, f"output={tmp_path / 'runs'}", "--local", "--json"]
    assert main([*command, "--seeds", "2"]) == 0
    shown = capsys.readouterr()
    told = json.loads(shown.out.splitlines()[-1])
    folders = [{name: Path(run["run_dir"]) for name, run in each["stages"].items()} for each in told["pipelines"]]
    seeds = [{name: load_run_config(folder).seed for name, folder in each.items()} for each in folders]
    assert seeds == [{"first": 7, "second": 0}, {"first": 7, "second": 1}]
    hashes = [{name: read_result(folder)["weights_sha256"] for name, folder in each.items()} for each in folders]
    assert hashes[0]["first"] == hashes[1]["first"] and hashes[0]["second"] != hashes[1]["second"]
    assert recorded_inputs(folders[1]["second"])["start_from"]["run_id"] == folders[1]["first"].name
    assert [told["seeds"][name]["metrics"]["train/loss"]["runs"] for name in ("first", "second")] == [2, 2]
    assert "second: 2 runs, interquartile mean" in shown.err
    journals = [(folder / "internal/journal.jsonl").read_bytes() for each in folders for folder in each.values()]
    again = run_pipeline_seeds(*command[1:5], seeds=2, local=True)
    assert again.group == told["run_id"] and len(again.pipelines) == 2
    found = [run.run_dir for each in again.pipelines for run in each.stages.values()]
    assert [(folder / "internal/journal.jsonl").read_bytes() for folder in found] == journals, "nothing was trained"
    with pytest.raises(UserError, match="leave out seed="):
        run_pipeline_seeds(*command[1:5], "seed=3", seeds=2, local=True)


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ("stage:first", "stage:third", r"stages\.second: there is no earlier stage 'third' \(earlier ones: first\)"),
        ("stage:first", "stage:second", "there is no earlier stage 'second'"),
        ("config: reinforce_self_play_go5x5", "confg: x", r"stages\.first: write config"),
        ("stages:", "stage:", "is no pipeline"),
        ("num_envs: 8", "num_env: 8", r"stages\.first: source\.num_env: .* did you mean 'num_envs'"),
        ("config: reinforce_self_play_go5x5", "config: reinforce", "there is no config file or shipped config"),
    ],
)
def test_mistakes_are_told_before_the_first_stage(tmp_path: Path, before: str, after: str, sentence: str) -> None:
    file = written(tmp_path, STAGES.replace(before, after))
    with pytest.raises(UserError, match=sentence):
        run_pipeline(file, *SMALL, f"output={tmp_path / 'runs'}", local=True)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", sorted(shipped_pipelines()))
def test_shipped_pipelines_name_configs_that_there_are(name: str) -> None:
    trees = _stage_trees(shipped_pipelines()[name], [])
    assert len(_typed(trees, {stage: stage for stage in trees})) > 1
    assert name not in shipped_configs()
