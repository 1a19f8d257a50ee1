"""Trials that fail, processes that die, drivers that vanish: a study records the truth and goes on."""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from processes import DEADLINE_S
from rayloom.errors import UserError
from rayloom.launch.search import resume_study, run_study
from rayloom.search.driver import TooManyFailuresError
from search_cases import (
    GRID,
    MARK,
    STEPS,
    Process,
    assert_all_gone,
    assert_no_doubles,
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

_GRID: dict[str, Any] = {"space": GRID, "sampler": "grid", "metric": "evaluate/accuracy"}
_SHORT: dict[str, Any] = {"stop": {"epochs": 2}}
_EPOCH = 18


def _states(output: Path) -> list[str]:
    return [trial["state"] for trial in trials(output)]


def _traceback(output: Path, number: int) -> str:
    return (trial_folders(output)[number] / "artifacts" / "traceback.txt").read_text()


# --- trials that fail -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "reason"), [("raise", "ArithmeticError: the probe was told"), ("user_error", "UserError: algorithm.l2")]
)
def test_a_trial_that_raises_is_recorded_and_the_study_goes_on(fault: str, reason: str, tmp_path: Path) -> None:
    algorithm = {"fault": fault, "fault_above": 0.005, "fault_at": 20}
    result = run_study(study("s", tmp_path, _GRID, algorithm=algorithm, **_SHORT), local=True)
    assert result.status == "FINISHED" and result.best_number in (0, 1)
    assert _states(tmp_path) == ["COMPLETE", "COMPLETE", "FAIL", "FAIL"]
    for number in (2, 3):
        assert reason in _traceback(tmp_path, number)
        ended = json.loads((trial_folders(tmp_path)[number] / "result.json").read_text())
        assert ended == {"status": "FAILED", "stopped_by": "an exception"}


def test_a_trial_that_becomes_nan_has_failed(tmp_path: Path) -> None:
    space = {"learner.optimizer.learning_rate": [1e-3, 1e30, 3e-3]}
    algorithm = {"network": {"kind": "mlp", "hidden_sizes": [8]}}
    config = study("s", tmp_path, {**_GRID, "space": space}, algorithm=algorithm, **_SHORT)
    assert run_study(config, local=True).counts["FAILED"] == 1
    assert _states(tmp_path) == ["COMPLETE", "FAIL", "COMPLETE"]
    assert "lower learner.optimizer.learning_rate" in _traceback(tmp_path, 1)


def test_a_trial_that_cannot_be_built_has_failed(tmp_path: Path) -> None:
    # The config is right by itself; with this data set two trials of it do not fit.
    space = {"algorithm.l2": [0.0, 0.1], "learner.batch_size": [32, 5000]}
    result = run_study(study("s", tmp_path, {**_GRID, "space": space}, stop={"updates": 2}), local=True)
    assert result.counts["FAILED"] == 2
    assert _states(tmp_path) == ["COMPLETE", "FAIL", "COMPLETE", "FAIL"]
    assert "learner.batch_size: 5000 is more than the 1197" in _traceback(tmp_path, 3)


def test_a_trial_whose_config_is_refused_has_failed(tmp_path: Path) -> None:
    space = {"algorithm.l1": [0.0, 0.1], "algorithm.l2": [0.0, 0.1]}
    config = study("s", tmp_path, {**_GRID, "space": space}, algorithm={"incompatible": True}, stop={"updates": 2})
    run_study(config, local=True)
    found = trials(tmp_path)
    assert [trial["state"] for trial in found] == ["COMPLETE", "COMPLETE", "COMPLETE", "FAIL"]


def test_more_failures_than_allowed_end_the_study(tmp_path: Path) -> None:
    algorithm = {"fault": "raise", "fault_above": -1.0, "fault_at": 2}
    config = study("s", tmp_path / "out", {**_GRID, "max_failures": 1}, algorithm=algorithm, **_SHORT)
    code, line, err = outcome(search(config, tmp_path, "--local"))
    assert code == 1 and line["status"] == "FAILED" and "2 of 2 trials failed" in line["error"]
    assert "Traceback" in err and "in _fail\n" in err and "ArithmeticError: the probe was told to fail" in err
    assert _states(tmp_path / "out") == ["FAIL", "FAIL"]
    name = study_folder(tmp_path / "out").name
    with pytest.raises(UserError, match=r"search\.max_failures: 2 trials have failed already"):
        resume_study(name, output=str(tmp_path / "out"))
    with pytest.raises(TooManyFailuresError, match="4 of 4 trials failed"):
        resume_study(name, "search.max_failures=3", output=str(tmp_path / "out"))
    assert _states(tmp_path / "out") == ["FAIL"] * 4


def test_a_study_whose_trials_all_failed_by_the_users_mistake_ends_with_one_sentence(tmp_path: Path) -> None:
    algorithm = {"fault": "user_error", "fault_above": -1.0, "fault_at": 2}
    code, line, err = outcome(
        search(study("s", tmp_path / "out", _GRID, algorithm=algorithm, **_SHORT), tmp_path, "--local")
    )
    assert code == 2 and line["status"] == "FAILED"
    assert "4 of 4 trials failed" in line["error"] and "the probe does not like it" in line["error"]
    assert "Traceback" not in err


def test_a_metric_that_trials_do_not_have_ends_the_study(tmp_path: Path) -> None:
    config = study("s", tmp_path, {**_GRID, "metric": "evaluate/acuracy"}, **_SHORT)
    with pytest.raises(UserError, match="did you mean 'evaluate/accuracy'"):
        run_study(config, local=True)


# --- on Ray ---------------------------------------------------------------------------------------------------------

_SLOW = {"pause_s": 0.03}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output folder of the grid's study, without Ray and without faults."""
    output = tmp_path_factory.mktemp("alone")
    run_study(study("s", output, _GRID), local=True)
    return output


def _checkpointed(output: Path, number: int) -> Callable[[], bool]:
    """Return whether a trial has a checkpoint and has gone on from there."""

    def reached() -> bool:
        folder = study_folder(output) / "trials" / f"{number:04d}"
        journal = folder / "internal/journal.jsonl"
        return (
            any(folder.glob("checkpoints/step_*"))
            and journal.read_bytes().count(b'"metrics"') > 45
            and not (folder / "result.json").exists()
        )

    return reached


def _actor(output: Path, number: int) -> int:
    process = study_folder(output) / "trials" / f"{number:04d}" / "internal/process.json"
    return int(json.loads(process.read_text())["pid"])


def _assert_same(output: Path, alone: Path, steps: Path, interrupted: int) -> None:
    """Every grid point once, with the numbers of one process; at least so many trials went on from a checkpoint."""
    ours, theirs = trials(output), trials(alone)
    for key in ("number", "state", "parameters", "values", "reports"):
        assert [trial[key] for trial in ours] == [trial[key] for trial in theirs]
    assert results(output) == results(alone)
    continued = [parts for parts in updates(steps).values() if len(parts) > 1]
    for parts in continued:
        for before, after in itertools.pairwise(parts):
            assert after[0] - 1 in (before[-1] // 36 * 36, (before[-1] - 1) // 36 * 36)
    assert sum(parts[-1][0] > 1 for parts in continued) >= interrupted


@pytest.mark.xdist_group("ray")
def test_a_trial_whose_process_dies_goes_on_and_one_that_keeps_killing_it_has_failed(
    alone: Path, tmp_path: Path
) -> None:
    output, mark = tmp_path / "out", {MARK: str(tmp_path), STEPS: str(tmp_path / "steps")}
    algorithm = {**_SLOW, "fault": "exit", "fault_above": 0.05}
    process = search(study("s", output, {**_GRID, "parallel": 2}, algorithm=algorithm), tmp_path, **mark)
    assert _kill_actor(process, output, 0)
    code, line, err = outcome(process)
    assert code == 0 and line["trials"] == {"RUNNING": 0, "COMPLETE": 3, "PRUNED": 0, "FAILED": 1}, err
    assert "trial 0: its process died" in err and "continues from its last checkpoint" in err
    assert updates(tmp_path / "steps")[0.0][1][0] in (37, 73)
    assert results(output)[:3] == results(alone)[:3]
    assert _states(output)[3] == "FAIL" and "its process died 3 times" in _traceback(output, 3)
    assert len(updates(tmp_path / "steps")[0.1]) == 3
    assert_no_doubles(trial_folders(output)[3])
    assert_all_gone(str(tmp_path))


def _kill_actor(process: Process, output: Path, number: int) -> bool:
    """Kill the process of a trial once it is past its first checkpoint."""
    reached, deadline = _checkpointed(output, number), time.monotonic() + DEADLINE_S
    while not reached() and process.poll() is None:
        assert time.monotonic() < deadline, "the trial does not get there"
        time.sleep(0.005)
    if process.poll() is not None:
        return False
    os.kill(_actor(output, number), signal.SIGKILL)
    return True


@pytest.mark.parametrize("name", ["ActorDiedError", "ActorUnavailableError", "OutOfMemoryError", "NodeDiedError"])
def test_every_death_that_ray_reports_is_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray import exceptions

    from rayloom.cluster import trial_pool

    arguments = {"ActorUnavailableError": ("gone", None)}.get(name, ("gone",) if name != "ActorDiedError" else ())
    error = getattr(exceptions, name)(*arguments)

    def fail(*_: Any, **__: Any) -> None:
        raise error

    killed: list[Any] = []
    monkeypatch.setattr(trial_pool.ray, "wait", lambda refs, **_: (refs, []))
    monkeypatch.setattr(trial_pool.ray, "get", fail)
    monkeypatch.setattr(trial_pool.ray, "kill", killed.append)
    monkeypatch.setattr(trial_pool.RayTrialPool, "_start_actor", lambda self, slot: setattr(slot, "actor", "new"))
    pool = trial_pool.RayTrialPool.__new__(trial_pool.RayTrialPool)
    pool._slots, pool._deadline_s = [trial_pool._Slot(None, "old", ref="work")], 60.0
    ((slot, reason),) = pool.wait(0.1)
    assert slot == 0 and isinstance(reason, str) and reason.startswith("its process died: ") and len(reason) > 20
    assert killed == ["old"] and pool._slots[0].actor == "new" and pool._slots[0].ref is None


@pytest.mark.full
@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_killed_or_interrupted_driver_leaves_no_process_and_no_trial_behind(
    number: int, exit_code: int, alone: Path, tmp_path: Path
) -> None:
    output, mark = tmp_path / "out", {MARK: str(tmp_path), STEPS: str(tmp_path / "steps")}
    process = search(study("s", output, {**_GRID, "parallel": 2}, algorithm=_SLOW), tmp_path, **mark)
    assert kill_when(process, _checkpointed(output, 0))
    assert_all_gone(str(tmp_path))
    process = resume(output, **mark)
    assert kill_when(process, _checkpointed(output, 2), number)
    code, line, err = outcome(process)
    assert code == exit_code and line["status"] == "KILLED" and line["run_id"] == study_folder(output).name, err
    assert json.loads((study_folder(output) / "result.json").read_text())["status"] == "KILLED"
    ended = json.loads((trial_folders(output)[2] / "result.json").read_text())
    assert ended == {"status": "KILLED", "stopped_by": "interrupted"}
    assert_all_gone(str(tmp_path))
    code, line, err = outcome(resume(output, **mark))
    assert code == 0 and line["trials"] == {"RUNNING": 0, "COMPLETE": 4, "PRUNED": 0, "FAILED": 0}, err
    _assert_same(output, alone, tmp_path / "steps", 2)
    assert_all_gone(str(tmp_path))
