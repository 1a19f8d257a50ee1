"""Studies against a real sqlite store: one writer process serves the study and its trials, after whatever end."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from places import FAKES
from rayloom.files import write_json
from rayloom.tracking import journal
from rayloom.tracking.journal import is_delivered, read_binding
from rayloom.tracking.tracker import Tracker, record_end
from rayloom.tracking.writer.stale import find_stale
from tracking_store import DEADLINE_S, StoreView, empty_store, losses, start_study, start_trial, wait_for


@pytest.fixture
def output(tmp_path: Path) -> Path:
    empty_store(tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def store(output: Path) -> StoreView:
    return StoreView(output / "mlflow.db")


def log(tracker: Tracker, first: int, last: int) -> None:
    for step in range(first, last):
        tracker.log_metrics({"train/loss": 1.0 / (step + 1)}, step)


def id_of(output: Path, number: int) -> str | None:
    binding = read_binding(output / "study" / "trials" / f"{number:04d}")
    return binding["run_id"] if binding else None


def ids_of(output: Path, count: int) -> list[str]:
    return [wait_for(lambda number=number: id_of(output, number), f"trial {number}") for number in range(count)]


def files_of(output: Path, run_id: str) -> set[str]:
    artifacts = output / "mlartifacts" / run_id / "artifacts"
    return {path.relative_to(artifacts).as_posix() for path in artifacts.rglob("*") if path.is_file()}


def kill_writer(tracker: Tracker) -> int:
    assert tracker._process is not None
    tracker._process.kill()
    tracker._process.wait(10)
    return tracker._process.pid


def test_one_process_serves_a_study_through_kill_9_and_resume(output: Path, store: StoreView) -> None:
    before = {child.pid for child in psutil.Process().children()}
    study = start_study(output, params={"trials": 4}, system_metrics=True)
    trials = [start_trial(output, number, params={"x": number}, system_metrics=True) for number in range(4)]
    start_trial(output, 4, enabled=False).finish("FINISHED")
    (output / "study" / "trials" / "0005").mkdir()  # made, and not started before the end
    for trial in trials:
        trial.log_text("config.yaml", "name: trial\n")
        log(trial, 0, 20)
    assert trials[0].finish("FINISHED")
    ids = ids_of(output, 4)
    parent = study.run_id
    assert parent and trials[0].run_id == ids[0]
    assert study._process is not None
    (service,) = (child for child in psutil.Process().children() if child.pid not in before)
    assert service.pid == study._process.pid and service.nice() == psutil.Process().nice() + 10
    wait_for(lambda: store.status(ids[0]) == "FINISHED" and len(store.points(ids[3])) == 20, "the first points")

    first = kill_writer(study)
    with sqlite3.connect(store.database, timeout=30) as connection:
        connection.execute("update runs set lifecycle_stage = 'deleted' where run_uuid = ?", (ids[3],))
    log(trials[1], 20, 40)
    log(trials[3], 20, 40)
    log(study, 0, 5)
    wait_for(lambda: study.set_tags({}) or len(store.points(ids[1])) == 40, "another writer's points")
    assert study._process.pid != first
    trial_dir = output / "study" / "trials" / "0001"
    assert record_end(trial_dir, "FAILED", {"rayloom.stopped_by": "an actor died"}, ("traceback.txt", "why\n"))
    assert study.finish("KILLED", timeout_s=DEADLINE_S)
    assert study.problem is None and find_stale(output) == []

    assert [store.status(run_id) for run_id in (parent, *ids[:3])] == ["KILLED", "FINISHED", "FAILED", "KILLED"]
    assert [store.points(run_id) for run_id in (parent, *ids[:3])] == [
        losses(0, 5),
        losses(0, 20),
        losses(0, 40),
        losses(0, 20),
    ]
    assert sorted(store.runs()) == sorted([parent, *ids[:3]])  # the deleted one is not brought back
    tags = [store.tags(run_id) for run_id in ids]
    assert {tag["mlflow.parentRunId"] for tag in tags} == {parent} and "mlflow.parentRunId" not in store.tags(parent)
    assert [tag["rayloom.end"] for tag in tags[:3]] == ["finished", "failed", "killed"]
    assert tags[1]["rayloom.stopped_by"] == "an actor died"
    assert [store.params(run_id) for run_id in ids[:3]] == [{"x": "0"}, {"x": "1"}, {"x": "2"}]
    assert store.rows("select count(distinct experiment_id) from runs") == [(1,)]
    assert files_of(output, parent) == {"environment.json", "curves.png"}
    assert files_of(output, ids[0]) == {"config.yaml"} and files_of(output, ids[1]) == {"config.yaml", "traceback.txt"}
    sampled = store.rows("select distinct run_uuid from metrics where key like 'system/%'")
    assert sampled == [(parent,)]

    study = start_study(output, resume=True)
    wait_for(lambda: store.status(parent) == "RUNNING", "the study going on")
    resumed = start_trial(output, 2, resume=True, params={"x": 2})
    wait_for(lambda: store.status(ids[2]) == "RUNNING", "the trial going on")
    log(resumed, 15, 30)
    log(start_trial(output, 5), 0, 3)
    resumed.finish("FINISHED")
    assert store.status(ids[0]) == "FINISHED"
    assert record_end(output / "study" / "trials" / "0005", "FINISHED")
    assert study.finish("FINISHED", timeout_s=DEADLINE_S)
    last = id_of(output, 5)
    assert last and study.run_id == parent and id_of(output, 2) == ids[2]
    assert sorted(store.runs()) == sorted([parent, *ids[:3], last])
    statuses = [store.status(run_id) for run_id in (parent, *ids[:3], last)]
    assert statuses == ["FINISHED", "FINISHED", "FAILED", "FINISHED", "FINISHED"]
    assert store.points(ids[2]) == losses(0, 30) and store.points(ids[1]) == losses(0, 40)
    assert store.points(last) == losses(0, 3) and store.tags(last)["mlflow.parentRunId"] == parent


DRIVER = """
import subprocess, sys, time
from pathlib import Path
from tracking_store import DEADLINE_S, start_study, start_trial
output = Path(sys.argv[1])
study = start_study(output)
for number, last in ((0, 10), (1, 20)):
    trial = start_trial(output, number)
    for step in range(last):
        trial.log_metrics({"train/loss": 1.0 / (step + 1)}, step)
    if number == 0:
        trial.finish("FAILED")
actor = subprocess.Popen([sys.executable, "-c", sys.argv[2], str(output)], start_new_session=True)
print(study.wait_run_id(DEADLINE_S), flush=True)
time.sleep(280)
"""

ACTOR = """
import os, sys, time
from pathlib import Path
from tracking_store import start_trial
driver, trial = os.getppid(), start_trial(Path(sys.argv[1]), 2)
trial.log_metrics({"train/loss": 1.0}, 0)
while os.getppid() == driver:
    time.sleep(0.02)
time.sleep(2.0)
trial.log_metrics({"train/loss": 0.5}, 1)
"""


def test_kill_9_of_the_driver_ends_the_study_and_waits_for_its_actors(output: Path, store: StoreView) -> None:
    command = [sys.executable, "-c", DRIVER, str(output), ACTOR]
    driver = subprocess.Popen(command, cwd=FAKES, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert driver.stdout is not None
    parent = driver.stdout.readline().strip()
    ids = ids_of(output, 3)
    wait_for(lambda: len(store.points(ids[2])) == 1, "the actor's first point")
    assert [store.status(run_id) for run_id in (parent, *ids)] == ["RUNNING", "FAILED", "RUNNING", "RUNNING"]
    driver.send_signal(signal.SIGKILL)
    driver.wait(10)
    wait_for(lambda: is_delivered(output / "study"), "the writer ending the study")
    assert [store.status(run_id) for run_id in (parent, *ids)] == ["KILLED", "FAILED", "KILLED", "KILLED"]
    assert [store.points(run_id) for run_id in ids] == [losses(0, 10), losses(0, 20), losses(0, 2)]
    assert find_stale(output) == [] and len(store.runs()) == 4


def test_a_trial_starts_no_writer_and_waits_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **settings: object) -> None:
        raise AssertionError("a trial started a process or slept")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr("time.sleep", refuse)
    trial = start_trial(tmp_path, 0)
    log(trial, 0, 3)
    assert trial.run_id is None and trial.wait_run_id(60.0) is None and trial.problem is None
    size = os.path.getsize(trial.run_dir / journal.JOURNAL)
    trial.log_model(Path("checkpoint"))
    assert os.path.getsize(trial.run_dir / journal.JOURNAL) == size
    write_json(trial.run_dir / journal.BINDING, {"run_id": "a1"})
    assert trial.run_id == "a1" and trial.finish("FINISHED")
    assert journal.owner(trial.run_dir)["pid"] == os.getpid()
    assert start_trial(tmp_path, 1, enabled=False).finish("KILLED")
