"""The journal alone: torn lines, damage, acknowledgement, ownership. No writer, no MLflow."""

from __future__ import annotations

import errno
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rayloom.contract import Figure
from rayloom.errors import UserError
from rayloom.files import make_internal, write_json
from rayloom.tracking import claim
from rayloom.tracking import journal as journals
from rayloom.tracking.journal import Acknowledgement, Journal, is_alive, own_process, read_metrics, read_records
from rayloom.tracking.location import known_uri, resolve_uri, told_of_store
from rayloom.tracking.tracker import Tracker
from rayloom.tracking.writer.stale import find_stale


def quiet(run_dir: Path, *, resume: bool = False) -> Tracker:
    arguments = {"uri": "", "experiment": "e", "run_name": "n", "params": {}, "tags": {}}
    return Tracker.start(run_dir, resume=resume, enabled=False, **arguments)


def test_a_torn_last_line_is_invisible_and_cut_off_at_reopening(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append({"kind": "tags", "tags": {"a": "1"}})
    journal.close()
    whole = (tmp_path / "internal/journal.jsonl").stat().st_size
    with open(tmp_path / "internal/journal.jsonl", "ab") as file:
        file.write(b'{"kind":"metrics","step":3,"val')
    assert [end for _, end in read_records(tmp_path)] == [whole]
    journal = Journal(tmp_path)
    assert journal.size == whole
    journal.append({"kind": "tags", "tags": {"b": "2"}})
    assert [record["tags"] for record, _ in read_records(tmp_path)] == [{"a": "1"}, {"b": "2"}]
    assert [record["tags"] for record, _ in read_records(tmp_path, whole)] == [{"b": "2"}]


def test_a_torn_line_longer_than_the_search_window_is_cut_off(tmp_path: Path) -> None:
    make_internal(tmp_path)
    (tmp_path / "internal/journal.jsonl").write_bytes(b'{"kind":"x"}\n' + b"y" * 200_000)
    assert Journal(tmp_path).size == 13
    (tmp_path / "internal/journal.jsonl").write_bytes(b"y" * 200_000)
    assert Journal(tmp_path).size == 0


def test_a_full_disk_leaves_no_half_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path)
    journal.append({"kind": "one"})
    real = os.write
    monkeypatch.setattr(journals.os, "write", lambda file, line: real(file, line[:5]))
    with pytest.raises(OSError, match="free some disk space"):
        journal.append({"kind": "two"})
    monkeypatch.undo()
    journal.append({"kind": "three"})
    assert [record["kind"] for record, _ in read_records(tmp_path)] == ["one", "three"]


def test_damage_in_the_middle_costs_one_line(tmp_path: Path) -> None:
    make_internal(tmp_path)
    (tmp_path / "internal/journal.jsonl").write_bytes(b'{"kind":"a"}\n\0\0\0\n[1]\n{"kind":"b"}\n')
    assert [record["kind"] for record, _ in read_records(tmp_path)] == ["a", "unreadable", "unreadable", "b"]
    assert journals.last_kind(tmp_path) == "b"


def test_reading_in_portions_gives_every_record_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for step in range(50):
        journal.append({"kind": "metrics", "step": step, "values": {}})
    offset, steps = 0, []
    while portion := list(read_records(tmp_path, offset, 200)):
        assert len(portion) < 50
        steps += [record["step"] for record, _ in portion]
        offset = portion[-1][1]
    assert steps == list(range(50))


def test_metrics_survive_the_journal_bit_for_bit(tmp_path: Path) -> None:
    tracker = quiet(tmp_path / "run")
    values = {"a": 0.1 + 0.2, "b": 5e-324, "c": math.inf, "d": -math.inf, "e": 1.7976931348623157e308}
    tracker.log_metrics({**values, "f": math.nan}, 7)
    points = {key: (step, value) for step, key, value in tracker.history()}
    assert math.isnan(points.pop("f")[1])
    assert points == {key: (7, value) for key, value in values.items()}
    assert tracker.finish("FINISHED") and tracker.run_id is None and tracker.wait_run_id(1.0) is None


def test_resume_leaves_out_what_the_journal_has(tmp_path: Path) -> None:
    tracker = quiet(tmp_path / "run")
    for step in (0, 10, 20):
        tracker.log_metrics({"a": step}, step)
    tracker.log_metrics({"b": 0}, 10)
    tracker.finish("FAILED")
    tracker = quiet(tmp_path / "run", resume=True)
    for step in (10, 20, 30):
        tracker.log_metrics({"a": step, "b": step}, step)
    tracker.log_metrics({"b": 31}, 30)  # only what an earlier process logged is left out
    points = sorted((key, step) for step, key, _ in read_metrics(tmp_path / "run"))
    assert points == [("a", 0), ("a", 10), ("a", 20), ("a", 30), ("b", 10), ("b", 20), ("b", 30), ("b", 30)]


def test_acknowledgement_is_replaced_as_a_whole(tmp_path: Path) -> None:
    make_internal(tmp_path)
    assert Acknowledgement.load(tmp_path) == Acknowledgement(0, None, None)
    Acknowledgement(12, "FINISHED", "slow").save(tmp_path)
    assert Acknowledgement.load(tmp_path) == Acknowledgement(12, "FINISHED", "slow")
    assert [path.name for path in (tmp_path / "internal").iterdir()] == ["journal.ack"]


def test_a_process_is_known_by_more_than_its_number(tmp_path: Path) -> None:
    own = own_process()
    assert is_alive(own) is True
    assert is_alive({**own, "created": own["created"] - 60}) is False  # another process had this number before
    assert is_alive({**own, "host": "elsewhere"}) is None
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    import psutil

    described = {**own, "pid": child.pid, "created": psutil.Process(child.pid).create_time()}
    assert is_alive(described) is True
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert is_alive(described) is False  # a zombie
    child.wait()
    assert is_alive(described) is False


def test_without_locks_a_folder_where_a_living_process_trains_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(claim.fcntl, "lockf", no_locks)
    quiet(tmp_path / "run")
    process = journals.owner(tmp_path / "run")
    parent = os.getppid()
    import psutil

    other = {**process, "pid": parent, "created": psutil.Process(parent).create_time()}
    write_json(tmp_path / "run" / "internal/process.json", other)
    with pytest.raises(UserError, match=f"training in process {parent}"):
        quiet(tmp_path / "run", resume=True)
    write_json(tmp_path / "run" / "internal/process.json", {**other, "created": 0.0})
    quiet(tmp_path / "run", resume=True)


def test_stale_runs_are_those_of_dead_drivers_on_this_machine(tmp_path: Path) -> None:
    def folder(name: str, process: dict[str, object], status: str | None, acknowledged: bool) -> None:
        run_dir = tmp_path / name
        run_dir.mkdir(parents=True)
        journal = Journal(run_dir)
        journal.append({"kind": "start", "journal": name, "experiment": "e", "name": "n", "params": {}, "tags": {}})
        write_json(run_dir / "internal/process.json", process)
        Acknowledgement(journal.size if acknowledged else 3, status).save(run_dir)

    own = {**own_process(), "session": "s", "tracked": True}
    dead = {**own, "created": 0.0}
    folder("alive", own, None, False)
    folder("elsewhere", {**dead, "host": "elsewhere"}, None, False)
    folder("untracked", {**dead, "tracked": False}, None, False)
    folder("delivered", dead, "FINISHED", True)
    folder("deleted", dead, "DELETED", False)
    folder("unfinished", dead, None, True)
    folder("search/undelivered", dead, "FAILED", False)
    assert [path.name for path in find_stale(tmp_path)] == ["undelivered", "unfinished"]


def test_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert resolve_uri(None, Path("out")) == f"sqlite:///{tmp_path}/out/mlflow.db"
    assert resolve_uri("sqlite:///here.db", Path("out")) == f"sqlite:///{tmp_path}/here.db"
    assert resolve_uri("http://host:5000", Path("out")) == "http://host:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://other:5000")
    assert resolve_uri(None, Path("out")) == "http://other:5000"
    assert resolve_uri("sqlite:////a/b.db", Path("out")) == "sqlite:////a/b.db"
    for wrong in ("file:///a/b", "file:/a/b", "/a/b"):
        with pytest.raises(UserError, match=r"use sqlite:////a/b/mlflow\.db instead"):
            resolve_uri(wrong, Path("out"))
    with pytest.raises(UserError, match=f"use sqlite:///{tmp_path}/mlruns/mlflow.db instead"):
        resolve_uri("mlruns", Path("out"))
    for wrong in ("sqlite://", "sqlite:///:memory:", "sqlite:///"):
        with pytest.raises(UserError, match="names no database file"):
            resolve_uri(wrong, Path("out"))


@pytest.mark.parametrize("name", ["", "/x", "a//b", "a/", "../x", "a/../x", ".", "a\0b", "a\nb", "a\ud800", "x" * 201])
def test_evaluations_name_files_of_the_run_folder_only(name: str, tmp_path: Path) -> None:
    tracker = quiet(tmp_path)
    with pytest.raises(UserError, match=r"an evaluation names the file .*give a path inside the run folder"):
        tracker.log_content(name, "x")
    with pytest.raises(UserError, match=r"an evaluation names the file .*give a path inside the run folder"):
        tracker.log_figure(name, Figure("text", text="x"), 1)
    assert not list(tmp_path.rglob("figures")) and not list(tmp_path.rglob("artifacts"))


def test_an_address_without_its_password_is_completed_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        UserError, match=r"^tracking\.uri: http://u:\*\*\*@h stands here without its password; set MLFLOW"
    ):
        resolve_uri("http://u:***@h", tmp_path)
    assert resolve_uri("http://u:***@h", tmp_path, tracked=False) == "http://u:***@h"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://u:hush@h")
    assert resolve_uri("http://u:***@h", tmp_path) == "http://u:hush@h" == known_uri("http://u:***@h")
    assert told_of_store("for u: hush") == "for u: ***"
    with pytest.raises(UserError, match=r"^http://v:\*\*\*@h is recorded without its password"):
        known_uri("http://v:***@h")
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///a/b.db?password=hush")
    absolute = f"sqlite:///{tmp_path}/a/b.db?password="
    assert resolve_uri(f"{absolute}***", tmp_path) == f"{absolute}hush"
