"""The host of a study in this process, turn by turn; and what a study's driver does with the folders of trials."""

from __future__ import annotations

import errno
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from places import FAKES
from rayloom.contract import Figure
from rayloom.errors import UserError
from rayloom.files import write_json
from rayloom.runs.folders import find_run_folder
from rayloom.tracking import claim, journal
from rayloom.tracking.tracker import Tracker, record_end
from rayloom.tracking.writer.leftovers import reap
from rayloom.tracking.writer.stale import find_stale
from rayloom.tracking.writer.study_writer import Host
from tracking_store import StoreView, bound, empty_store, losses, start, start_study, start_trial


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a store; studies in it start no process."""
    monkeypatch.setattr(Tracker, "_spawn", lambda self: None)
    monkeypatch.setattr(Tracker, "_keep_writer", lambda self: True)
    empty_store(tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def store(output: Path) -> StoreView:
    return StoreView(output / "mlflow.db")


def serving(output: Path) -> Host:
    """The host of a living driver: the parent of this process plays it."""
    return Host(output / "study", os.getppid(), 60.0)


def trial_dir(output: Path, number: int) -> Path:
    return output / "study" / "trials" / f"{number:04d}"


def id_of(output: Path, number: int) -> str:
    return str(bound(trial_dir(output, number))["run_id"])


def log(trial: Tracker, first: int, last: int) -> None:
    for step in range(first, last):
        trial.log_metrics({"train/loss": 1.0 / (step + 1)}, step)


def end(study: Tracker, status: str) -> None:
    study._append({"kind": "finish", "status": status, "time": journal.now_ms()})


def die(run_dir: Path) -> None:
    """Make the process that claimed a folder a dead one."""
    process = journal.owner(run_dir)
    write_json(run_dir / journal.PROCESS, {**process, "created": 0.0})


def counted(monkeypatch: pytest.MonkeyPatch, name: str, owner: Any = journal) -> list[Path]:
    """Record the folders for which a function of the journal is called."""
    folders: list[Path] = []
    real: Callable[..., Any] = getattr(owner, name)

    def call(run_dir: Path, *arguments: Any) -> Any:
        folders.append(run_dir)
        return real(run_dir, *arguments)

    monkeypatch.setattr(owner, name, staticmethod(call) if owner is not journal else call)
    return folders


def test_delivered_trials_are_not_read_again_until_they_go_on(
    output: Path, store: StoreView, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_study(output)
    for number in range(5):
        trial = start_trial(output, number)
        log(trial, 0, 3)
        trial.finish("FINISHED")
    live = start_trial(output, 5)
    host = serving(output)
    host._turn()
    assert [store.status(id_of(output, number)) for number in range(6)] == ["FINISHED"] * 5 + ["RUNNING"]

    read, loaded = counted(monkeypatch, "read_records"), counted(monkeypatch, "load", journal.Acknowledgement)
    starts = counted(monkeypatch, "last_start")
    log(live, 0, 4)
    for _ in range(3):
        host._turn()
    assert {path for path in read + loaded + starts if path.parent.name == "trials"} == {trial_dir(output, 5)}
    assert store.points(id_of(output, 5)) == losses(0, 4)

    log(start_trial(output, 6), 0, 2)  # a new one is seen at once, one that goes on at the next sweep
    log(start_trial(output, 2, resume=True), 0, 5)
    host._trials._next_sweep = 0.0
    host._turn()
    assert store.points(id_of(output, 6)) == losses(0, 2) and store.points(id_of(output, 2)) == losses(0, 5)
    assert store.status(id_of(output, 2)) == "RUNNING"

    read.clear()
    serving(output)._turn()  # another host, after kill -9 of the first
    whole = {trial_dir(output, number) for number in (0, 1, 3, 4)}
    assert not whole & {*starts, *read}
    assert len(store.runs()) == 8 and len(store.points(id_of(output, 0))) == 3


def test_an_unchanged_folder_of_trials_is_not_listed(
    output: Path, store: StoreView, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = start_study(output)
    start_trial(output, 0).finish("FINISHED")
    host = serving(output)
    host._turn()
    listed = counted(monkeypatch, "scandir", os)
    host._trials._list_until = 0.0  # the folder's last change is long ago
    host._turn()
    assert listed == []
    start_trial(output, 1)
    host._turn()
    assert listed == [output / "study" / "trials"] and id_of(output, 1)

    host._trials._next_sweep = math.inf
    start_trial(output, 0, resume=True).finish("FAILED")
    end(study, "FINISHED")  # before the end every trial is looked at
    host._turn()
    assert host._exit == 0 and [store.status(id_of(output, number)) for number in (0, 1)] == ["FAILED", "KILLED"]


def test_the_end_of_a_study_waits_for_processes_of_trials_only(output: Path, store: StoreView) -> None:
    study = start_study(output)
    for number in range(3):
        log(start_trial(output, number), 0, 1)
    parent = psutil.Process(os.getppid())
    for number in (1, 2):
        process = journal.owner(trial_dir(output, number))
        other = {**process, "pid": parent.pid, "created": parent.create_time()}
        write_json(trial_dir(output, number) / journal.PROCESS, other)
    end(study, "KILLED")
    host = serving(output)
    host._turn()  # what there is to read
    host._turn()
    assert host._exit is None
    assert [store.status(id_of(output, number)) for number in range(3)] == ["KILLED", "RUNNING", "RUNNING"]
    die(trial_dir(output, 1))
    host._turn()
    assert [store.status(id_of(output, number)) for number in range(3)] == ["KILLED", "KILLED", "RUNNING"]
    host._patience = 0.0  # it was long enough
    host._turn()
    assert host._exit == 0 and store.status(id_of(output, 2)) == "KILLED"


def test_a_trial_that_another_process_takes_over_is_not_killed_between(output: Path, store: StoreView) -> None:
    study = start_study(output)
    log(start_trial(output, 0, params={"x": 1}), 0, 5)
    host = serving(output)
    host._turn()
    run_id = id_of(output, 0)
    die(trial_dir(output, 0))
    host._turn()
    assert store.status(run_id) == "RUNNING"
    trial = start_trial(output, 0, resume=True, params={"x": 2})
    log(trial, 3, 9)
    trial.finish("FINISHED")
    host._turn()
    assert store.status(run_id) == "FINISHED" and store.points(run_id) == losses(0, 9)
    assert store.tags(run_id)["rayloom.changed/x"] == "2"

    # A process that was killed a moment too late says more: it waits until the trial goes on.
    late = journal.Journal(trial_dir(output, 0))
    late.append({"kind": "metrics", "time": journal.now_ms(), "step": 9, "values": {"train/loss": 0.1}})
    end(study, "KILLED")
    host._turn()
    assert host._exit == 0 and store.status(run_id) == "FINISHED" and store.points(run_id) == losses(0, 9)
    study = start_study(output, resume=True)
    trial = start_trial(output, 0, resume=True)
    log(trial, 8, 12)
    trial.finish("FAILED")
    end(study, "FINISHED")
    assert serving(output).run() == 0
    assert store.status(run_id) == "FAILED" and store.points(run_id) == losses(0, 12)
    assert len(store.runs()) == 2 and store.status(bound(output / "study")["run_id"])


def test_what_is_wrong_with_one_trial_does_not_stop_the_others(
    output: Path, store: StoreView, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rayloom.tracking.writer.mlflow_store import Store

    study = start_study(output)
    broken = start_trial(output, 0)
    broken.log_figure("samples", Figure("matrix", torch.eye(2)), 1)
    (picture,) = (trial_dir(output, 0) / "figures").rglob("*.npz")
    picture.write_bytes(b"PK no archive")
    broken.finish("FINISHED")
    start_trial(output, 1)
    (trial_dir(output, 1) / journal.PROCESS).write_text("{}")
    start_trial(output, 2, experiment="x\0y" * 300)
    trial = start_trial(output, 3)
    log(trial, 0, 2)
    trial.finish("FINISHED")
    start_trial(output, 4).finish("FINISHED")
    real, failures = Store.terminate, [trial_dir(output, 4)]

    def terminate(self: Store, status: str, time_ms: int) -> None:
        if self.run_dir in failures:
            failures.remove(self.run_dir)
            raise ZeroDivisionError("a bug")
        real(self, status, time_ms)

    monkeypatch.setattr(Store, "terminate", terminate)
    (output / "study" / "trials" / "notes.txt").write_text("not a trial\n")
    host = serving(output)
    host._turn()
    end(study, "FINISHED")
    assert host.run() == 0
    parent = bound(output / "study")["run_id"]
    assert store.points(id_of(output, 3)) == losses(0, 2)
    assert [store.status(run_id) for run_id in (parent, id_of(output, 0), id_of(output, 3))] == ["FINISHED"] * 3
    assert store.tags(id_of(output, 0))["rayloom.refused"].startswith("figure: ")
    assert store.tags(parent)["rayloom.refused"].startswith("trial 000")
    errors = capfd.readouterr().err
    assert "leaving the trial 0001: " in errors and "leaving the trial 0002: " in errors
    assert "leaving the trial 0004: ZeroDivisionError('a bug')" in errors and "Traceback" in errors
    assert store.status(id_of(output, 4)) == "RUNNING"  # rather than an end that is not true


def test_the_others_come_first_after_a_server_did_not_answer(
    output: Path, store: StoreView, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rayloom.tracking.writer.errors import UnreachableError

    study = start_study(output)
    start_trial(output, 0, uri="http://127.0.0.1:1").finish("FINISHED")
    log(start_trial(output, 1), 0, 2)
    host = serving(output)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for _ in range(2):
        with pytest.raises(UnreachableError):
            host._turn()
    assert store.points(id_of(output, 1)) == losses(0, 2)
    end(study, "FINISHED")
    host._parent._drain_s = 0.0
    assert host.run() == journal.GAVE_UP  # it does not try for ever
    assert "127.0.0.1" in str(journal.Acknowledgement.load(output / "study").problem)


@pytest.mark.parametrize("death", ["answer lost", "host killed"])
def test_a_run_whose_creation_nobody_heard_of_is_not_created_twice(
    output: Path, store: StoreView, monkeypatch: pytest.MonkeyPatch, death: str
) -> None:
    from rayloom.tracking.writer.errors import UnreachableError
    from rayloom.tracking.writer.mlflow_store import Store

    start_study(output)
    start_trial(output, 0)
    error = UnreachableError if death == "answer lost" else SystemExit
    real = Store.attach

    def attach(self: Store, *arguments: Any, **settings: Any) -> bool:
        created = real(self, *arguments, **settings)
        if self.run_dir.name == "0000":
            raise error
        return created

    monkeypatch.setattr(Store, "attach", attach)
    host = serving(output)
    with pytest.raises(error):
        host._turn()
    monkeypatch.setattr(Store, "attach", real)
    (host if death == "answer lost" else serving(output))._turn()
    assert len(store.runs()) == 2 and id_of(output, 0) in store.runs()


def test_the_reaper_settles_a_study_whole(output: Path, store: StoreView) -> None:
    start_study(output)
    for number in range(3):
        log(start_trial(output, number), 0, number + 1)
    start_trial(output, 0, resume=True).finish("FINISHED")
    serving(output)._turn()
    log(start_trial(output, 1, resume=True), 0, 6)
    for number in range(3):
        die(trial_dir(output, number))
    assert find_stale(output) == [] and find_stale(output / "study") == []  # trials are never settled on their own
    with journal.locked(output / "study" / journal.LOCK, 0.0):
        die(output / "study")
        assert find_stale(output) == [output / "study"] == find_stale(output.parent)
        assert reap(output, 30.0) == []  # the host lives
    assert reap(output, 30.0) == [output / "study"] and find_stale(output) == []
    parent = bound(output / "study")["run_id"]
    ids = [id_of(output, number) for number in range(3)]
    assert [store.status(run_id) for run_id in (parent, *ids)] == ["KILLED", "FINISHED", "KILLED", "KILLED"]
    assert [len(store.points(run_id)) for run_id in ids] == [1, 6, 3]


def test_a_trial_waits_for_its_dying_process(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys; from tracking_store import *; start_trial(Path(sys.argv[1]), 0); print(flush=True); input()"
    command = [sys.executable, "-c", code, str(output)]
    with subprocess.Popen(command, cwd=FAKES, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()
        monkeypatch.setattr(claim, "_DEADLINE_S", 0.2)
        with pytest.raises(UserError, match=f"0000 is training in process {process.pid} on "):
            start_trial(output, 0, resume=True)
        monkeypatch.setattr(claim, "_DEADLINE_S", 60.0)
        naps: list[float] = []

        def nap(seconds: float) -> None:
            naps.append(seconds)
            if len(naps) == 3:
                process.kill()
            sleep(seconds)

        sleep = time.sleep
        monkeypatch.setattr("time.sleep", nap)
        start_trial(output, 0, resume=True)
        assert len(naps) >= 3


@pytest.mark.parametrize("locks", [True, False])
def test_a_living_process_that_ended_a_run_does_not_keep_it(
    locks: bool, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not locks:
        monkeypatch.setattr(claim.fcntl, "lockf", _no_locks)
        monkeypatch.setattr(claim, "_DEADLINE_S", 0.2)
    start_trial(output, 0).finish("FAILED")
    process = journal.owner(trial_dir(output, 0))
    parent = psutil.Process(os.getppid())
    other = {**process, "pid": parent.pid, "created": parent.create_time()}
    write_json(trial_dir(output, 0) / journal.PROCESS, other)
    start_trial(output, 0, resume=True)
    start(output, "single", enabled=False).finish("FAILED")
    write_json(output / "single" / journal.PROCESS, other)
    start(output, "single", enabled=False, resume=True)
    write_json(output / "single" / journal.PROCESS, other)
    if not locks:  # then the process id is all that is known
        with pytest.raises(UserError, match=f"single is training in process {parent.pid} on "):
            start(output, "single", enabled=False, resume=True)


def _no_locks(*arguments: object) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


def test_the_end_of_a_dead_trial_is_recorded_once(output: Path) -> None:
    folder = trial_dir(output, 0)
    folder.mkdir(parents=True)
    assert not record_end(folder, "FAILED") and list(folder.iterdir()) == []
    start_trial(output, 0)
    with open(folder / journal.JOURNAL, "ab") as file:
        file.write(b'{"kind":"metr')  # kill -9 in the middle of a line
    assert record_end(folder, "FAILED", {"a": "1"}, ("traceback.txt", "why\n"))
    assert not record_end(folder, "KILLED")
    records = [record for record, _ in journal.read_records(folder)]
    assert [record["kind"] for record in records] == ["start", "file", "tags", "finish"]
    assert records[2]["tags"] == {"a": "1"} and records[3]["status"] == "FAILED"
    assert (folder / "artifacts" / "traceback.txt").read_text() == "why\n"
    start_trial(output, 0, resume=True)
    assert record_end(folder, "KILLED")
    assert [record["kind"] for record, _ in journal.read_records(folder)][4:] == ["start", "finish"]


def test_trials_are_found_and_a_study_is_named(tmp_path: Path) -> None:
    def folder(path: str, name: str, run_id: str | None) -> Path:
        made = tmp_path / path
        (made / "internal").mkdir(parents=True)
        (made / name).write_text("")
        if run_id:
            write_json(made / journal.BINDING, {"run_id": run_id})
        return made

    run = folder("20250101-000000-run-aaaaaa", "config.yaml", "1" * 32)
    study = folder("20250101-000001-study-bbbbbb", "study.yaml", "2" * 32)
    trials = [folder(f"{study.name}/trials/{number:04d}", "config.yaml", f"{number}" * 31 + "f") for number in (3, 4)]
    folder(f"{study.name}/trials/0005", "other.yaml", None)
    for found in (f"{study.name}/0003", f"{study.name}/trials/0003", "3" * 31 + "f", "3" * 8):
        assert find_run_folder(tmp_path, found) == trials[0]
    assert find_run_folder(tmp_path, run.name) == find_run_folder(tmp_path, "1" * 8) == run
    for name in (study.name, study.name[:18], "2" * 32, "22222222"):
        with pytest.raises(UserError, match=rf"^{name} is a study: continue it with rayloom search --resume {name}$"):
            find_run_folder(tmp_path, name)
    with pytest.raises(UserError, match="fits several runs"):
        find_run_folder(tmp_path, "20250101")
    for name in (f"{study.name}/0005", "0003", "1" * 7):
        with pytest.raises(UserError, match="there is no run"):
            find_run_folder(tmp_path, name)
