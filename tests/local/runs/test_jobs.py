"""The run of a job: found again by whoever starts the job again, and never trained by two at once."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

import rayloom
from cases import case
from rayloom.config.schema import RunConfig
from rayloom.errors import UserError
from rayloom.launch.run import resume
from rayloom.runs import jobs
from rayloom.runs.folders import read_result
from rayloom.tracking import journal
from remarks import Notes

TINY: dict[str, Any] = {"stop": {"epochs": 1}}


def tiny(output: Path, **sections: dict[str, Any]) -> RunConfig:
    """Return a run of a second."""
    return case("softmax_regression", str(output), **{"learner": {"batch_size": 64}, **sections, **TINY})


def test_a_run_that_failed_is_tried_again_by_its_job_and_by_resume_but_never_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rayloom.runs.loop import Loop

    advance = Loop.advance
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "advance", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            rayloom.run(tiny(tmp_path), local=True, job="unlucky")
    assert Loop.advance is advance
    folder = tmp_path / "job-unlucky"
    failed = read_result(folder)
    assert failed is not None and failed["status"] == "FAILED"
    notes = Notes()
    assert rayloom.run(tiny(tmp_path), local=True, job="unlucky", observer=notes).run_dir == folder
    assert any("goes on with its run" in line for line in notes.lines)
    assert sum(record["kind"] == "start" for record, _ in journal.read_records(folder)) == 2
    with pytest.raises(UserError, match="job-unlucky has finished"):
        resume("job-unlucky", output=str(tmp_path))


def test_the_tag_of_the_job_is_recorded(tmp_path: Path) -> None:
    tagged = rayloom.run(tiny(tmp_path), local=True, job="j1")
    free = rayloom.run(tiny(tmp_path), local=True)
    for result, expected in ((tagged, "j1"), (free, None)):
        started = journal.last_start(result.run_dir)
        assert started is not None and started[0]["tags"].get("rayloom.job") == expected
    assert tagged.weights_sha256 == free.weights_sha256


def test_other_settings_under_the_same_id_are_refused_by_name(tmp_path: Path) -> None:
    rayloom.run(tiny(tmp_path), local=True, job="j")
    with pytest.raises(UserError, match=r"job j began its run with other learner\.batch_size, seed: keep those"):
        rayloom.run(tiny(tmp_path), "seed=3", "learner.batch_size=32", local=True, job="j")
    with pytest.raises(UserError, match="name and 2 more: keep those"):
        changes = ("seed=3", "learner.batch_size=32", "stop={epochs: 2}", "name=b", "learner.threads=2")
        rayloom.run(tiny(tmp_path), *changes, local=True, job="j")
    with pytest.raises(UserError, match=r"other cluster\.learner:"):
        rayloom.run(tiny(tmp_path), "cluster.learner=actor", job="j")
    rayloom.run(tiny(tmp_path, cluster={"learner": "actor"}), local=True, job="actor")
    with pytest.raises(UserError, match="job actor began its run with --local: keep to that"):
        rayloom.run(tiny(tmp_path, cluster={"learner": "actor"}), job="actor")
    # Where it takes place may change: another cluster, another way to the same folder.
    again = rayloom.run(tiny(tmp_path), "cluster.address=10.0.0.7:6379", f"output={tmp_path}/.", local=True, job="j")
    assert again.status == "FINISHED"
    assert rayloom.run(tiny(tmp_path), "seed=3", local=True, job="k").run_dir.name == "job-k"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_a_file_system_without_locks_is_named_and_the_run_goes_on(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(journal.fcntl, "flock", refuse)
    notes = Notes()
    config = tiny(tmp_path, tracking={"enabled": False})
    with jobs.attempt(config, "j", notes.note, uses_ray=False):
        pass
    assert any("has no file locks" in line for line in notes.lines)


def test_a_broken_disk_is_not_taken_for_missing_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(journal.fcntl, "flock", fail)
    config = tiny(tmp_path)
    with pytest.raises(OSError, match="broken"), jobs.attempt(config, "j", print, uses_ray=False):
        pass


@pytest.mark.parametrize("job", ["", "a/b", "../x", ".hidden", "a b", "ä", "x" * 101])
def test_an_id_that_is_no_file_name_is_refused(job: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--job"):
        rayloom.run(tiny(tmp_path), local=True, job=job)
    assert not list(tmp_path.iterdir())


def test_an_output_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="output: the folder"):
        rayloom.run(tiny(tmp_path / "file"), local=True, job="j")
