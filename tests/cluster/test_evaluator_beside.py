"""An evaluator's actor that judges while the training goes on: slow, dead, and the driver dead meanwhile."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

import rayloom
from beside import wait_for
from cases import case
from processes import finish, history, run_folder, start, write_config
from rayloom.cluster import ray_role
from rayloom.cluster.ray_role import RayRole
from rayloom.config.schema import RunConfig
from rayloom.errors import RoleTimeoutError
from rayloom.runs.observer import Observer, Report
from rayloom.runs.plan import make_plan
from rayloom.tracking.journal import read_records

pytestmark = pytest.mark.xdist_group("ray")


def held(output: Path, until: Path, **sections: dict[str, Any]) -> RunConfig:
    """Return a run whose evaluations, at update 20 and 40 and at the end, wait for a file."""
    evaluate = {"import": "beside:Held", "until": str(until), "every": "20 updates", "wait": False}
    more: dict[str, dict[str, Any]] = {
        "evaluate": evaluate,
        "stop": {"updates": 60, "epochs": 99},
        "checkpoint": {"every": "30 updates"},
        "tracking": {"every": "1 updates"},
        "cluster": {"evaluator": "actor"},
    }
    return case("softmax_regression", str(output), **{**more, **sections})


def expected(folder: Path) -> rayloom.Result:
    (folder / "now").touch()
    return rayloom.run(held(folder / "waits", folder / "now"), local=True)


def points(folder: Path) -> list[tuple[str, int, float]]:
    return sorted((key, step, value) for step, key, value in history(folder))


def told(folder: Path) -> Counter[int]:
    """Return how often the evaluation of each step was logged."""
    records = [record for record, _ in read_records(folder) if record["kind"] == "metrics"]
    return Counter(record["step"] for record in records if "evaluate/size" in record["values"])


class At(Observer):
    """Does something when the training has come so far, and notes what it is told."""

    def __init__(self, updates: int, deed: Any) -> None:
        self.updates, self.deed, self.done = updates, deed, False
        self.notes: list[str] = []

    def report(self, report: Report) -> None:
        if report.counters["updates"] >= self.updates and not self.done:
            self.done = True
            self.deed()

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.usefixtures("one_node")
@pytest.mark.parametrize("learner", ["driver", "actor"])
def test_the_training_does_not_wait_and_the_findings_are_the_same(learner: str, tmp_path: Path) -> None:
    until = tmp_path / "go"
    observer = At(35, until.touch)  # would never come if the training waited for the evaluation of update 20
    config = held(tmp_path / "beside", until, cluster={"evaluator": "actor", "learner": learner})
    result, waits = rayloom.run(config, observer=observer), expected(tmp_path)
    assert observer.done
    assert result.weights_sha256 == waits.weights_sha256
    assert points(result.run_dir) == points(waits.run_dir)
    assert told(result.run_dir) == {20: 1, 40: 1, 60: 1}


@pytest.mark.usefixtures("one_node")
def test_an_evaluator_that_dies_meanwhile_is_replaced(tmp_path: Path) -> None:
    until = tmp_path / "go"

    def strike() -> None:
        wait_for(until.with_suffix(".begun").exists)
        own = psutil.Process().children(recursive=True)
        (evaluator,) = (process for process in own if process.name().startswith("ray::EvaluatorActor"))
        os.kill(evaluator.pid, signal.SIGKILL)
        until.touch()

    observer = At(25, strike)
    result, waits = rayloom.run(held(tmp_path / "beside", until), observer=observer), expected(tmp_path)
    assert sum("the evaluator was replaced" in note for note in observer.notes) == 1, observer.notes
    assert points(result.run_dir) == points(waits.run_dir)
    assert told(result.run_dir) == {20: 1, 40: 1, 60: 1}


@pytest.mark.usefixtures("one_node")
def test_a_learner_that_dies_meanwhile_has_the_evaluation_of_its_checkpoint_done_again(tmp_path: Path) -> None:
    until = tmp_path / "go"

    def strike() -> None:
        own = psutil.Process().children(recursive=True)
        (learner,) = (process for process in own if process.name().startswith("ray::LearnerActor"))
        os.kill(learner.pid, signal.SIGKILL)
        until.touch()

    observer = At(35, strike)  # after the checkpoint of update 30, with the evaluation of update 20 in work
    config = held(tmp_path / "beside", until, cluster={"evaluator": "actor", "learner": "actor"})
    result, waits = rayloom.run(config, observer=observer), expected(tmp_path)
    assert sum("go on from the last checkpoint" in note for note in observer.notes) == 1, observer.notes
    assert result.weights_sha256 == waits.weights_sha256
    assert points(result.run_dir) == points(waits.run_dir)
    assert told(result.run_dir) == {20: 1, 40: 1, 60: 1}


@pytest.mark.full
def test_a_driver_killed_before_the_findings_arrive_has_them_made_again(tmp_path: Path) -> None:
    until, output = tmp_path / "go", tmp_path / "killed"
    config = write_config(held(output, until), tmp_path)
    fakes = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1] / "fakes"), os.environ["PYTHONPATH"]])}
    process = start("run", str(config), cwd=tmp_path, **fakes)
    try:
        # A checkpoint of update 30, with the evaluation of update 20 begun and not ended.
        begun = until.with_suffix(".begun")
        wait_for(lambda: process.poll() is not None or (begun.exists() and list(output.glob("*/checkpoints/step_*30"))))
        assert process.poll() is None, process.communicate()
    finally:
        process.kill()
        process.communicate()
    folder = run_folder(output)
    assert told(folder) == {}, "nothing had arrived"
    until.touch()
    resumed = finish(start("resume", folder.name, f"--output={output}", cwd=tmp_path, **fakes))
    waits = expected(tmp_path)
    assert resumed["weights_sha256"] == waits.weights_sha256
    assert points(folder) == points(waits.run_dir)
    assert told(folder) == {20: 1, 40: 1, 60: 1}


@pytest.mark.usefixtures("one_node")
def test_an_evaluator_answers_while_it_judges(tmp_path: Path) -> None:
    until = tmp_path / "go"
    config = held(tmp_path, until)
    role = RayRole(config, make_plan(config))
    try:
        policy = role.policy()
        role.begin_evaluation(policy)
        wait_for(until.with_suffix(".begun").exists)
        assert role.findings(wait=False) is None
        assert [process.role for process in role.processes()] == ["evaluator"]
        wait_for(lambda: ray.get(role._evaluator.units.remote(), timeout=60) > 0)
        until.touch()
        found = role.findings(wait=True)
        assert found is not None and "evaluate/size" in found.metrics
        assert role.evaluate().metrics == found.metrics, "the weights are the same"
    finally:
        role.close()


class _Units:
    """Stands for the evaluator's actor: tells these units of work, one after the other."""

    def __init__(self, *units: int) -> None:
        self._units = iter(units)
        self.units = self

    def remote(self) -> int:
        return next(self._units)


def test_an_evaluation_may_take_longer_than_the_deadline_while_it_gets_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(refs: list[Any], names: list[str], deadline_s: float) -> list[Any]:
        if refs == ["late"]:
            raise RoleTimeoutError("the evaluator did not answer")
        return refs

    monkeypatch.setattr(ray_role, "wait", wait)
    role = object.__new__(RayRole)
    role._answer, role._deadline_s, role._evaluator = "late", 1.0, _Units(3, 9, 10, 10, 11)
    with pytest.raises(RoleTimeoutError):
        role._await_findings()
    assert next(role._evaluator._units) == 11, "it was given up at the first look at which nothing had been done"
