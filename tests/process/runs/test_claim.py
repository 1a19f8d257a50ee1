"""One process trains in a run's folder, also where host names and process ids say nothing about the other one."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

import rayloom
from cases import case
from processes import DEADLINE_S, history, journal_lines, run_folder, start, write_config
from rayloom.errors import UserError

LONG = {"stop": {"epochs": 20_000}, "checkpoint": {"every": "1 epochs"}, "tracking": {"every": "1 epochs"}}


def test_a_run_that_lives_elsewhere_is_left_alone_until_it_is_dead(tmp_path: Path) -> None:
    output = tmp_path / "runs"
    path = write_config(case("softmax_regression", str(output), **LONG), tmp_path)
    process = start("run", str(path), "--local", cwd=tmp_path)
    try:
        deadline = time.monotonic() + DEADLINE_S
        while journal_lines(output) < 3:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        folder = run_folder(output)
        known = json.loads((folder / "internal/process.json").read_text())
        # As another container or machine with the same files sees it: another host, whose process ids mean nothing.
        (folder / "internal/process.json").write_text(json.dumps({**known, "host": "elsewhere"}))
        config = (folder / "config.yaml").read_bytes()
        sentence = rf"is training in process {process.pid} on elsewhere: wait for it, or stop it, first"
        for words in ((), ("stop.epochs=30000",)):
            with pytest.raises(UserError, match=sentence):
                rayloom.resume(folder.name, *words, output=str(output))
        os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(UserError, match=sentence):
            rayloom.resume(folder.name, output=str(output))
        assert (folder / "config.yaml").read_bytes() == config and not (folder / "result.json").exists()
    finally:
        process.kill()
        process.communicate(timeout=DEADLINE_S)
    done = max(step for step, _, _ in history(folder))
    # Nobody has to guess how long to wait: the lock ended with its process.
    epochs = json.loads(max((folder / "checkpoints").glob("step_*")).joinpath("manifest.json").read_text())
    assert epochs
    more = rayloom.resume(folder.name, f"stop.updates={done + 50}", output=str(output))
    points = [(step, key) for step, key, _ in history(folder)]
    assert more.counters["updates"] == done + 50 and len(points) == len(set(points))


def test_a_run_that_has_ended_leaves_its_folder_to_others(tmp_path: Path) -> None:
    config = case("softmax_regression", str(tmp_path), stop={"epochs": 2})
    folder = rayloom.run(config, local=True).run_dir
    resumed = start("resume", folder.name, "stop.epochs=3", f"--output={tmp_path}", cwd=tmp_path)
    out, err = resumed.communicate(timeout=DEADLINE_S)
    assert resumed.returncode == 0, err
    assert json.loads(out.splitlines()[-1])["counters"]["epochs"] == 3
