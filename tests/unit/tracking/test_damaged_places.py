"""What cannot be a lock, a log, a journal or a store is one sentence at the start, and stops no other run."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from rayloom.errors import UserError
from rayloom.files import DamagedFileError, make_internal
from rayloom.tracking import journal
from rayloom.tracking.location import resolve_experiment, resolve_uri
from rayloom.tracking.tracker import Tracker
from rayloom.tracking.writer import leftovers


def start(run_dir: Path, identity: str | None = None) -> Tracker:
    arguments = {"uri": "", "experiment": "e", "run_name": "n", "params": {}, "tags": {}}
    return Tracker.start(run_dir, resume=True, enabled=False, pictures=False, identity=identity, **arguments)


def a_folder(path: Path) -> None:
    path.mkdir()


def a_link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("damage", [a_folder, a_link_to_itself, a_pipe])
@pytest.mark.parametrize("name", ["process.lock", "writer.lock", "writer.log", "drawing.lock", "drawing.log"])
def test_what_cannot_be_a_lock_or_log_is_refused_at_the_start(name: str, damage: object, tmp_path: Path) -> None:
    make_internal(tmp_path)
    assert callable(damage)
    damage(tmp_path / "internal" / name)
    with pytest.raises(DamagedFileError, match=rf"internal/{name} is damaged"):
        start(tmp_path)


def test_a_line_without_end_is_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_LONGEST_RECORD", 100_000)
    make_internal(tmp_path)
    with open(tmp_path / "internal/journal.jsonl", "wb") as file:
        file.write(b'{"kind":"x"}\n')
        file.truncate(2**40)
    for read in (journal.read_metrics, journal.last_kind, journal.Journal):
        with pytest.raises(DamagedFileError, match=r"journal\.jsonl is damaged"):
            read(tmp_path)


def test_one_old_runs_lock_does_not_keep_the_others_from_mlflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        make_internal(tmp_path / name)
    (tmp_path / "a/internal/writer.lock").mkdir()
    monkeypatch.setattr(leftovers, "find_stale", lambda root: [root / "a", root / "b"])
    monkeypatch.setattr(leftovers, "is_stale", lambda run_dir: True)
    monkeypatch.setattr(leftovers, "_settle", lambda run_dir, drain_s: True)
    assert leftovers.reap(tmp_path) == [tmp_path / "b"]


def test_a_journal_that_is_gone_gets_the_name_that_a_checkpoint_knows(tmp_path: Path) -> None:
    first = start(tmp_path)
    first.finish("KILLED")
    again = start(tmp_path, "another")
    again.finish("KILLED")
    assert again.identity == first.identity == journal.read_identity(tmp_path)
    (tmp_path / "internal/journal.jsonl").unlink()
    start(tmp_path, first.identity).finish("KILLED")
    assert journal.read_identity(tmp_path) == first.identity


def garbage(path: Path) -> None:
    path.write_bytes(b"\x00\xff" * 4000)


@pytest.mark.parametrize("damage", [a_folder, a_link_to_itself, a_pipe, garbage])
def test_what_cannot_be_a_database_is_refused_before_anything_is_recorded(damage: object, tmp_path: Path) -> None:
    assert callable(damage)
    damage(tmp_path / "mlflow.db")
    with pytest.raises(UserError, match=r"mlflow\.db"):
        resolve_uri(None, tmp_path)
    assert resolve_uri(None, tmp_path, tracked=False).endswith("mlflow.db")


def test_what_may_be_a_database_is_left_to_mlflow(tmp_path: Path) -> None:
    assert resolve_uri(None, tmp_path)
    (tmp_path / "mlflow.db").touch()
    assert resolve_uri(None, tmp_path)
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("create table t (x)")
    assert resolve_uri(None, tmp_path)
    (tmp_path / "mlartifacts").write_text("a file")
    with pytest.raises(UserError, match=r"mlartifacts is no folder"):
        resolve_uri(None, tmp_path)


@pytest.mark.parametrize("uri", ["http://[::1", "http://127.0.0.1:99999999", "https://host:port"])
def test_what_is_no_url_is_refused(uri: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^tracking\.uri: .* is no URL"):
        resolve_uri(uri, tmp_path)


def test_experiments_have_names_that_mlflow_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "e" * 501)
    assert resolve_experiment("e" * 500)
    with pytest.raises(UserError, match=r"501 letters"):
        resolve_experiment(None)
