"""A study that was killed, interrupted or extended ends with the trials of one that never stopped."""

from __future__ import annotations

import itertools
import json
import math
import random
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from cases import case
from rayloom import run
from rayloom.config.schema import RunConfig
from rayloom.errors import UserError
from rayloom.launch.run import resume as resume_run
from rayloom.launch.search import resume_study, run_study
from rayloom.tracking.journal import read_metrics, read_records
from search_cases import (
    DEATH,
    GRID,
    STEPS,
    TPE,
    facts,
    kill_when,
    outcome,
    results,
    resume,
    search,
    study,
    study_folder,
    trial_folders,
    trials,
    updates,
)
from tracking_store import empty_store

_EPOCH = 18
"""Updates in an epoch of digits."""
_INTERRUPTED = {"status": "KILLED", "stopped_by": "interrupted"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output folder of the study that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole")
    code, line, err = outcome(search(study("s", folder / "out", TPE), folder, "--local"))
    assert code == 0 and line["status"] == "FINISHED", err
    states = [trial["state"] for trial in trials(folder / "out")]
    assert {"COMPLETE", "PRUNED"} == set(states) and len(states) == TPE["trials"]
    return folder / "out"


def _assert_same(output: Path, whole: Path) -> None:
    assert trials(output) == trials(whole)
    assert results(output) == results(whole)


def _assert_continued(steps: Path, every: int) -> None:
    """Processes went on from the last checkpoint of their trial, and left ended trials alone."""
    for parts in updates(steps).values():
        for before, after in itertools.pairwise(parts):
            done = before[-1]
            # The checkpoint of the very last update may have been under way.
            assert after[0] - 1 in (done // every * every, (done - 1) // every * every), (before, after)
            assert before == list(range(before[0], done + 1))


def _killed_and_resumed(whole: Path, folder: Path, moments: list[float]) -> None:
    output, steps = folder / "out", str(folder / "steps")
    total = facts(whole)
    process = search(study("s", output, TPE), folder, "--local", **{STEPS: steps})
    for moment in moments:
        if not kill_when(process, lambda least=int(total * moment): facts(output) >= least):
            break
        process = resume(output, **{STEPS: steps})
    code, line, err = outcome(process)
    assert code == 0 and line["status"] == "FINISHED", err
    _assert_same(output, whole)
    _assert_continued(Path(steps), 2 * _EPOCH)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_study_killed_twice_ends_with_the_same_trials(seed: int, whole: Path, tmp_path: Path) -> None:
    draw = random.Random(seed)
    _killed_and_resumed(whole, tmp_path, [draw.uniform(0.05, 0.5), draw.uniform(0.5, 0.95)])


@pytest.mark.full
@pytest.mark.parametrize("seed", range(10, 30))
def test_a_study_killed_at_any_moment_ends_with_the_same_trials(seed: int, whole: Path, tmp_path: Path) -> None:
    draw = random.Random(seed)
    _killed_and_resumed(whole, tmp_path, sorted(draw.uniform(0.01, 1.0) for _ in range(draw.randint(1, 4))))


def test_a_study_killed_between_any_two_facts_ends_with_the_same_trials(tmp_path: Path) -> None:
    config = {"checkpoint": {"every": "1 epochs"}}
    search_part = {**TPE, "trials": 6}
    whole, output = tmp_path / "whole", tmp_path / "out"
    assert outcome(search(study("s", whole, search_part, **config), tmp_path, "--local"))[0] == 0
    deaths = [
        "Ledger.ask:after:1",  # a trial without a folder
        "Ledger.report:before:2",  # an evaluation that only the checkpoint knows
        "Session.finish:after:1",  # a finished trial that the study thinks is running
        "Ledger.end:after:1",  # an ended trial that nobody has heard of
        "Ledger.report:after:3",  # a pruning decision that was not carried out: prune trial 1
        "Ledger.end:after:1",  # a pruned trial that does not know
        "CheckpointStore.save:after:1",
        "Session.end:before:1",
        "Ledger.ask:before:1",
        "Driver._record_end:before:1",
    ]
    process = search(study("s", output, search_part, **config), tmp_path, "--local", **{DEATH: deaths[0]})
    died = 0
    for death in [*deaths[1:], "Ledger.end:before:99"]:
        process.communicate(timeout=120)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
        died += 1
        process = resume(output, **{DEATH: death})
    code, _, err = outcome(process)
    assert code == 0, err
    assert died >= 8
    _assert_same(output, whole)
    ends = [json.loads((folder / "result.json").read_text())["stopped_by"] for folder in trial_folders(output)]
    assert ends == [json.loads((folder / "result.json").read_text())["stopped_by"] for folder in trial_folders(whole)]


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_study_says_so_and_ends_with_the_same_trials(
    number: int, exit_code: int, whole: Path, tmp_path: Path
) -> None:
    output, total = tmp_path / "out", facts(whole)
    process = search(study("s", output, TPE), tmp_path, "--local", **{STEPS: str(tmp_path / "steps")})
    assert kill_when(process, lambda: facts(output) >= total // 3, number)
    code, line, err = outcome(process)
    assert code == exit_code and line["status"] == "KILLED", err
    assert line["run_id"] == study_folder(output).name
    assert json.loads((study_folder(output) / "result.json").read_text())["status"] == "KILLED"
    running = [trial["number"] for trial in trials(output) if trial["state"] == "RUNNING"]
    for n in running:
        result = trial_folders(output)[n] / "result.json" if n < len(trial_folders(output)) else None
        ended = json.loads(result.read_text()) if result is not None else None
        # A trial may have ended the moment before, with nobody left to tell the study.
        assert ended is None or ended["status"] == "FINISHED" or ended == _INTERRUPTED
    code, line, err = outcome(resume(output, **{STEPS: str(tmp_path / "steps")}))
    assert code == 0, err
    _assert_same(output, whole)
    _assert_continued(tmp_path / "steps", 2 * _EPOCH)


def test_a_study_interrupted_before_a_pruned_trial_knows_it_tells_the_trial(whole: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    death = {DEATH: "Ledger.end:after:2:SIGTERM"}
    code, line, err = outcome(search(study("s", output, {**TPE, "trials": 3}), tmp_path, "--local", **death))
    assert code == 143 and line["status"] == "KILLED", err
    assert [trial["state"] for trial in trials(output)] == ["COMPLETE", "PRUNED"]
    stopped_by = json.loads((trial_folders(whole)[1] / "result.json").read_text())["stopped_by"]
    assert stopped_by.startswith("pruned at evaluation ")
    pruned = {"status": "KILLED", "stopped_by": stopped_by}
    assert json.loads((trial_folders(output)[1] / "result.json").read_text()) == pruned
    records = [record for record, _ in read_records(trial_folders(output)[1])]
    assert {"rayloom.trial_state": "PRUNED", "rayloom.stopped_by": stopped_by} in [
        record.get("tags") for record in records
    ]
    assert [record["kind"] for record in records].count("finish") == 1
    assert outcome(resume(output))[0] == 0
    assert trials(output) == trials(whole)[:3]


# --- extending, and what cannot be continued -----------------------------------------------------------------------


def test_an_extended_study_equals_one_that_was_started_with_as_many_trials(whole: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    first = run_study(study("s", output, {**TPE, "trials": 5}), local=True)
    with pytest.raises(UserError, match=r"has finished; to extend it, add search\.trials"):
        resume_study(first.study_dir.name, output=str(output))
    with pytest.raises(UserError, match=r"learner\.batch_size: a study that goes on can change"):
        resume_study(first.study_dir.name, "learner.batch_size=3", output=str(output))
    with pytest.raises(UserError, match="there is no study"):
        resume_study("nothing-like-it", output=str(output))
    with pytest.raises(UserError, match="rayloom search --resume"):
        resume_run(first.study_dir.name, output=str(output))
    stamps = [(folder / "result.json").stat().st_mtime_ns for folder in trial_folders(output)]
    extended = resume_study(first.study_dir.name, f"search.trials={TPE['trials']}", output=str(output))
    assert extended.status == "FINISHED" and extended.study_dir == first.study_dir
    _assert_same(output, whole)
    assert stamps == [(folder / "result.json").stat().st_mtime_ns for folder in trial_folders(output)[:5]]


def test_a_running_study_is_not_resumed_a_second_time(tmp_path: Path) -> None:
    output = tmp_path / "out"
    slow = study(
        "s", output, {"space": GRID, "sampler": "grid", "metric": "evaluate/accuracy"}, algorithm={"pause_s": 5.0}
    )
    process = search(slow, tmp_path, "--local")
    with pytest.raises(UserError, match="is still running"):
        kill_when(process, lambda: trial_folders(output) and _resume_here(output))
    assert kill_when(process, lambda: True)


def _resume_here(output: Path) -> None:
    resume_study(study_folder(output).name, output=str(output))


# --- populations -----------------------------------------------------------------------------------------------------


def test_a_killed_population_ends_with_the_values_of_trials_alone(tmp_path: Path) -> None:
    space = {"learner.optimizer.learning_rate": [3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-4]}
    part = {"space": space, "sampler": "grid", "metric": "evaluate/loss"}

    def population(name: str, size: int) -> RunConfig:
        config = case("mlp_dropout", str(tmp_path / name), algorithm={"network": {"kind": "mlp", "hidden_sizes": [16]}},
                      source={"augment": []}, stop={"epochs": 8}, checkpoint={"every": "2 epochs"},
                      search={**part, "population": size})  # fmt: skip
        return replace(config, name="p")

    alone = run_study(population("alone", 1), local=True)
    process = search(population("out", 4), tmp_path, "--local")
    output = tmp_path / "out"
    assert kill_when(process, lambda: list(study_folder(output).glob("trials/0003/checkpoints/step_*")))
    assert kill_when(again := resume(output), lambda: list(study_folder(output).glob("trials/0005/checkpoints/step_*")))
    code, line, err = outcome(resume(output))
    assert code == 0 and line["trials"]["COMPLETE"] == len(space["learner.optimizer.learning_rate"]), (err, again.pid)
    assert line["best_trial"] == alone.best_number
    for one, other in zip(trials(tmp_path / "alone"), trials(output), strict=True):
        assert one["parameters"] == other["parameters"]
        assert other["reports"].keys() == one["reports"].keys()
        for evaluation, value in one["reports"].items():
            assert math.isclose(other["reports"][evaluation], value, rel_tol=2e-3), (one, other)
    results(output)


# --- MLflow ----------------------------------------------------------------------------------------------------------


def test_mlflow_has_a_resumed_study_once(tmp_path: Path) -> None:
    output = tmp_path / "out"
    store = empty_store(output)
    part = {**TPE, "trials": 6, "space": {**TPE["space"], "algorithm.l2": [0.0, 0.01, 1.0]}}
    config = study("s", output, part, tracking={"enabled": True}, algorithm={"fault": "raise", "fault_above": 0.5})
    process = search(config, tmp_path, "--local")
    assert kill_when(process, lambda: len(trial_folders(output)) >= 3 and list(output.glob("*/internal/mlflow.json")))
    code, line, err = outcome(resume(output))
    assert code == 0 and line["status"] == "FINISHED", err
    runs = store.rows("select run_uuid, name, status from runs where lifecycle_stage = 'active' order by name")
    found = trials(output)
    assert [name for _, name, _ in runs] == [
        study_folder(output).name,
        *(f"s-{trial['number']:04d}" for trial in found),
    ]
    parent = runs[0][0]
    assert parent == line["run_id"] and runs[0][2] == "FINISHED"
    statuses = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
    assert {trial["state"] for trial in found} == set(statuses)
    for (run_id, _, status), trial, folder in zip(runs[1:], found, trial_folders(output), strict=True):
        tags = store.tags(run_id)
        assert status == statuses[trial["state"]]
        assert tags["rayloom.trial_state"] == trial["state"].replace("FAIL", "FAILED")
        assert tags["mlflow.parentRunId"] == parent
        written = sorted((key, step) for step, key, _ in read_metrics(folder))
        assert written == [(key, step) for key, step, _ in sorted(store.points(run_id))]
    assert [step for key, step, _ in store.points(parent) if key == "search/pruned"] == [1, 2, 3, 4, 5, 6]
    best = (study_folder(output) / "best.yaml").read_text()
    assert (output / "mlartifacts" / parent / "artifacts" / "best.yaml").read_text() == best


def test_the_best_config_trains_to_the_best_trials_weights(whole: Path, tmp_path: Path) -> None:
    best = json.loads((study_folder(whole) / "result.json").read_text())["best"]
    trial = json.loads((trial_folders(whole)[best] / "result.json").read_text())
    again = run(str(study_folder(whole) / "best.yaml"), f"output={tmp_path}", local=True)
    assert again.weights_sha256 == trial["weights_sha256"]
    assert repr(again.metrics["evaluate/accuracy"]) == trial["metrics"]["evaluate/accuracy"]
