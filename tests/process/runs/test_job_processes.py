"""Jobs that are killed, started again, started twice, or held by another process."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import rayloom
from cases import case
from processes import finish, history, journal_lines, kill_after, start, write_config
from rayloom.config.schema import RunConfig
from rayloom.errors import UserError
from rayloom.files import write_json
from rayloom.runs import jobs
from rayloom.runs.folders import load_run_config
from rayloom.runs.observer import Observer
from rayloom.tracking import journal
from remarks import Notes
from tracking_store import empty_store

TINY: dict[str, Any] = {"stop": {"epochs": 1}}


LONG: dict[str, Any] = {"stop": {"env_steps": 20_000}, "checkpoint": {"every": "1_000 env_steps"}}


def tiny(output: Path, **sections: dict[str, Any]) -> RunConfig:
    """Return a run of a second."""
    return case("softmax_regression", str(output), **{"learner": {"batch_size": 64}, **sections, **TINY})


def test_a_killed_job_goes_on_with_its_own_run_and_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    config = case("ppo", str(tmp_path / "runs"), **LONG)
    path = write_config(config, tmp_path)
    command = ("run", str(path), "--local", "--job", "4711_0.a")
    assert kill_after(start(*command, cwd=tmp_path), tmp_path / "runs", 12)
    folder = tmp_path / "runs" / "job-4711_0.a"
    before = (folder / "internal/journal.jsonl").read_bytes()
    result = finish(start(*command, cwd=tmp_path))
    assert [path.parent for path in (tmp_path / "runs").glob("*/config.yaml")] == [folder]
    assert (folder / "internal/journal.jsonl").read_bytes().startswith(before[: before.rindex(b"\n") + 1])
    undisturbed = rayloom.run(case("ppo", str(tmp_path / "other"), **LONG), local=True)
    assert result["weights_sha256"] == undisturbed.weights_sha256
    assert result["counters"] == undisturbed.counters
    assert history(folder) == history(undisturbed.run_dir)  # none lost, none doubled


def test_a_finished_job_is_reported_again_word_for_word(tmp_path: Path) -> None:
    store = empty_store(tmp_path / "runs")
    path = write_config(tiny(tmp_path / "runs", tracking={"enabled": True}), tmp_path)
    command = ("run", str(path), "--local", "--job", "once")
    first = finish(start(*command, cwd=tmp_path))
    lines = journal_lines(tmp_path / "runs")
    second = finish(start(*command, cwd=tmp_path))
    assert second == first and list(second["metrics"]) == list(first["metrics"])
    assert first["status"] == "FINISHED" and first["run_dir"] == str(tmp_path / "runs" / "job-once")
    assert journal_lines(tmp_path / "runs") == lines > 0
    assert store.runs() == [first["run_id"]] and store.tags(first["run_id"])["rayloom.job"] == "once"


def test_other_settings_are_refused_before_an_unfinished_run_is_touched(tmp_path: Path) -> None:
    config = case("ppo", str(tmp_path / "runs"), **LONG)
    path = write_config(config, tmp_path)
    assert kill_after(start("run", str(path), "--local", "--job", "j", cwd=tmp_path), tmp_path / "runs", 3)
    files = {path: path.read_bytes() for path in (tmp_path / "runs" / "job-j").rglob("*.*") if path.suffix != ".lock"}
    with pytest.raises(UserError, match="other seed"):
        rayloom.run(config, "seed=9", local=True, job="j")
    assert {path: path.read_bytes() for path in files} == files


def test_a_second_attempt_while_the_first_trains_is_refused_in_a_sentence(tmp_path: Path) -> None:
    config = case("ppo", str(tmp_path / "runs"), stop={"env_steps": 10_000_000})
    path = write_config(config, tmp_path)
    first = start("run", str(path), "--local", "--job", "j", cwd=tmp_path)
    try:
        deadline = time.monotonic() + 60
        while not journal_lines(tmp_path / "runs"):
            assert time.monotonic() < deadline and first.poll() is None
            time.sleep(0.02)
        second = start("run", str(path), "--local", "--job", "j", cwd=tmp_path)
        out, err = second.communicate(timeout=60)
        assert second.returncode == 2
        assert f"job j is running in process {first.pid} on " in err and "Traceback" not in err
        assert json.loads(out)["status"] == "FAILED"
        assert first.poll() is None
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate(timeout=60)


HOLDER = """
import sys, time
from pathlib import Path
from rayloom.tracking.journal import locked
with locked(Path(sys.argv[1]), 0.0) as held:
    print(held, flush=True)
    time.sleep(float(sys.argv[2]))
"""


def hold(folder: Path, seconds: float) -> subprocess.Popen[str]:
    """Hold a job's lock in another process, as an attempt on another machine does."""
    (folder / "internal").mkdir(parents=True)
    command = [sys.executable, "-c", HOLDER, str(folder / "internal/job.lock"), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "True\n"
    return process


def test_an_attempt_elsewhere_is_noticed_by_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_LOCK_DEADLINE_S", 0.3)
    holder = hold(tmp_path / "job-j", 60)
    try:
        owner = {"pid": 77, "created": 0.0, "host": "node-12"}
        write_json(tmp_path / "job-j" / journal.PROCESS, owner)
        with pytest.raises(UserError, match="job j is running in process 77 on node-12"):
            rayloom.run(tiny(tmp_path), local=True, job="j")
    finally:
        holder.kill()
        holder.wait(30)
    assert rayloom.run(tiny(tmp_path), local=True, job="j").status == "FINISHED"  # the lock went with its holder


def test_the_lock_of_a_dying_attempt_is_waited_for(tmp_path: Path) -> None:
    holder = hold(tmp_path / "job-j", 1.0)
    notes = Notes()
    assert rayloom.run(tiny(tmp_path), local=True, job="j", observer=notes).status == "FINISHED"
    assert holder.wait(30) == 0
    assert any("another attempt still holds job j" in line for line in notes.lines)


class Finisher(Observer):
    """Finishes the run, as the other attempt, as soon as this one waits for it."""

    def __init__(self, finished: Path, folder: Path) -> None:
        self._finished, self._folder = finished, folder

    def note(self, text: str) -> None:
        if "still holds job" in text:
            shutil.copytree(self._finished, self._folder, dirs_exist_ok=True)


def test_an_attempt_that_waited_reports_the_result_of_the_one_before(tmp_path: Path) -> None:
    before = rayloom.run(tiny(tmp_path / "a"), f"tracking.uri=sqlite:///{tmp_path}/m.db", local=True, job="j")
    (before.run_dir / "internal/job.lock").unlink()
    holder = hold(tmp_path / "b" / "job-j", 1.0)
    config = load_run_config(before.run_dir)
    config = replace(config, output=str(tmp_path / "b"))
    observer = Finisher(before.run_dir, tmp_path / "b" / "job-j")
    lines = (before.run_dir / "internal/journal.jsonl").read_bytes()
    result = rayloom.run(config, local=True, job="j", observer=observer)
    assert holder.wait(30) == 0
    assert result.weights_sha256 == before.weights_sha256 and result.run_dir == tmp_path / "b" / "job-j"
    assert (result.run_dir / "internal/journal.jsonl").read_bytes() == lines  # and has not trained
