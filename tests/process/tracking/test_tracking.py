"""Whole runs against a real sqlite store: what arrives in MLflow, and under which status, after which end."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from places import FAKES
from rayloom.contract import Figure
from rayloom.errors import UserError
from rayloom.files import write_json
from rayloom.tracking import journal
from rayloom.tracking.journal import is_delivered
from rayloom.tracking.writer.keys import mlflow_key
from rayloom.tracking.writer.stale import find_stale
from tracking_store import DEADLINE_S, StoreView, empty_store, losses, start, start_driver, wait_for


@pytest.fixture
def output(tmp_path: Path) -> Path:
    empty_store(tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def store(output: Path) -> StoreView:
    return StoreView(output / "mlflow.db")


def test_everything_of_a_run_arrives(output: Path, store: StoreView) -> None:
    params: dict[str, object] = {f"p{index}": index for index in range(250)} | {"long": "x" * 7000, "odd key(1)": None}
    tracker = start(output, params=params, tags={"family": "agents", "note": "y" * 9000}, system_metrics=True)
    tracker.log_text("config.yaml", "name: run\n")
    tracker.log_text("source/diff.patch", "+1\n")
    many = {f"train/metric_{index}": float(index) for index in range(2500)}
    tracker.log_metrics(many, 5)
    tracker.log_metrics({"evaluate/return_mean": float("nan"), "train/loss": float("inf")}, 5)
    tracker.log_metrics({"evaluate/return_mean": 2.5, "bad|name//x": 1.0}, 6)
    for step in (5, 6):
        tracker.log_figure("samples", Figure("images", torch.rand(10, 1, 8, 8), animate=True), step)
    tracker.log_figure(
        "confusion", Figure("matrix", torch.eye(3), labels=("a", "b", "c"), column_labels=("d", "e", "f")), 5
    )
    tracker.log_figure("plane", Figure("points", torch.rand(9, 2), reference=torch.rand(9, 2)), 5)
    with pytest.raises(UserError, match="give a path inside the run folder"):
        tracker.log_figure("../samples", Figure("text", text="x"), 6)
    tracker.set_tags({"late": "1"})
    assert tracker.finish("FINISHED", timeout_s=DEADLINE_S)
    assert tracker.problem is None

    run_id = tracker.run_id
    assert run_id and store.runs() == [run_id]
    assert store.status(run_id) == "FINISHED"
    points = {key: (step, value) for key, step, value in store.points(run_id)}
    assert len(points) == len(store.points(run_id)) - 1 == 2500 + 3  # evaluate/return_mean has two points
    assert all(points[key] == (5, value) for key, value in many.items())
    assert points["evaluate/return_mean"] == (6, 2.5) and points[mlflow_key("bad|name//x")] == (6, 1.0)
    assert store.rows("select step, is_nan from metrics where key = 'evaluate/return_mean' order by step") == [
        (5, 1),
        (6, 0),
    ]
    stored = store.params(run_id)
    assert len(stored) == 252
    assert stored["p249"] == "249" and stored[mlflow_key("odd key(1)")] == "None"
    assert stored["long"] == "x" * 5999 + "…"
    tags = store.tags(run_id)
    assert tags["late"] == "1" and tags["family"] == "agents" and tags["rayloom.end"] == "finished"
    renamed = sorted(told for key, told in tags.items() if key.startswith("rayloom.renamed/"))
    assert renamed == [f"{mlflow_key(key)} stands for {key}" for key in ("bad|name//x", "odd key(1)")]
    assert len(tags["note"]) == 5000 and "rayloom.refused" not in tags
    assert store.rows("select count(*) from metrics where key like 'system/%cpu_utilization_percentage'")[0][0] >= 1
    assert store.rows("select name from experiments where experiment_id <> 0") == [("agents",)]

    artifacts = output / "mlartifacts" / run_id / "artifacts"
    files = {path.relative_to(artifacts).as_posix() for path in artifacts.rglob("*") if path.is_file()}
    assert files == {
        "config.yaml",
        "source/diff.patch",
        "environment.json",
        "curves.png",
        "figures/samples/step_000000005.png",
        "figures/samples/step_000000006.png",
        "figures/samples/over_steps.gif",
        "figures/confusion/step_000000005.png",
        "figures/plane/step_000000005.png",
    }
    assert (artifacts / "config.yaml").read_text() == "name: run\n"
    assert "mlflow" in json.loads((artifacts / "environment.json").read_text())["packages"]
    for name in ("curves.png", "figures/plane/step_000000005.png"):
        assert (artifacts / name).read_bytes().startswith(b"\x89PNG")


def test_the_driver_never_loads_mlflow_and_a_new_store_is_made_aside(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from tracking_store import DEADLINE_S, start
tracker = start(Path(sys.argv[1]))
assert tracker.wait_run_id(DEADLINE_S)
tracker.log_metrics({"train/loss": 1.0}, 0)
assert tracker.finish("FINISHED", timeout_s=DEADLINE_S)
print(sorted({name.split(".")[0] for name in sys.modules} & {"mlflow", "matplotlib", "pandas", "sqlalchemy"}))
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, cwd=FAKES, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
    assert sorted(path.name for path in tmp_path.glob("mlflow*")) == ["mlflow.db", "mlflow.db.lock"]


@pytest.mark.full
def test_a_writer_that_delivers_between_its_deaths_is_always_started_again(
    output: Path, store: StoreView, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayloom.tracking.tracker._MOST_RESTARTS", 1)
    tracker = start(output)
    run_id = tracker.wait_run_id(DEADLINE_S)
    assert run_id
    for step in range(3):
        tracker.log_metrics({"train/loss": 1.0 / (step + 1)}, step)
        wait_for(lambda step=step: len(store.points(run_id)) > step, "delivery")
        writer = tracker.writer()
        assert writer is not None
        os.kill(writer, signal.SIGKILL)
        time.sleep(1.1)  # the tracker looks once a second
    tracker.log_metrics({"train/loss": 1.0 / 4}, 3)
    assert tracker.finish("FINISHED", timeout_s=DEADLINE_S)
    assert store.points(run_id) == losses(0, 4)


def test_resume_goes_on_with_the_same_run(output: Path, store: StoreView) -> None:
    tracker = start(output, params={"stop": 10, "seed": 1})
    for step in range(10):
        tracker.log_metrics({"train/loss": 1.0 / (step + 1)}, step)
    tracker.log_figure("samples", Figure("images", torch.zeros(1, 1, 4, 4)), 8)
    assert tracker.finish("FAILED", timeout_s=DEADLINE_S)
    run_id = tracker.run_id
    assert run_id and store.status(run_id) == "FAILED" and store.points(run_id) == losses(0, 10)

    tracker = start(output, params={"stop": 20, "seed": 1}, resume=True)
    wait_for(lambda: store.status(run_id) == "RUNNING", "the run going on")
    tracker.log_figure("samples", Figure("images", torch.ones(1, 1, 4, 4)), 8)
    for step in range(6, 15):
        tracker.log_metrics({"train/loss": 1.0 / (step + 1)}, step)
    assert tracker.finish("FINISHED", timeout_s=DEADLINE_S)
    assert tracker.run_id == run_id and store.runs() == [run_id]
    assert store.status(run_id) == "FINISHED" and store.points(run_id) == losses(0, 15)
    assert [step for step, _, _ in tracker.history()] == list(range(15))
    assert store.params(run_id) == {"stop": "10", "seed": "1"}
    assert {k: v for k, v in store.tags(run_id).items() if k.startswith("rayloom.changed")} == {
        "rayloom.changed/stop": "20"
    }

    empty_store(output)  # a store that lost the run gets the whole journal, as another run
    tracker = start(output, resume=True)
    tracker.log_metrics({"train/loss": 1.0 / 16}, 15)
    wait_for(store.runs, "the run's second creation")
    _twin_of(store, store.runs()[0])
    assert tracker.finish("FINISHED", timeout_s=DEADLINE_S)
    (second,) = store.runs()  # the twin, which a slow server could have made, is deleted
    assert second == tracker.run_id != run_id
    assert store.points(second) == losses(0, 16) and store.status(second) == "FINISHED"
    assert store.params(second) == {"stop": "10", "seed": "1"}


def _twin_of(store: StoreView, run_id: str) -> None:
    """Create an empty run with the same journal behind MLflow's back."""
    with sqlite3.connect(store.database, timeout=30) as connection:
        columns = [row[1] for row in connection.execute("pragma table_info(runs)") if row[1] != "run_uuid"]
        names = ", ".join(columns)
        insert = f"insert into runs (run_uuid, {names}) select ?, {names} from runs where run_uuid = ?"
        tag = "insert into tags (key, value, run_uuid) select key, value, ? from tags"
        connection.execute(insert, ("f" * 32, run_id))
        connection.execute(f"{tag} where key = 'rayloom.journal' and run_uuid = ?", ("f" * 32, run_id))


def test_kill_9_of_the_driver(output: Path, store: StoreView) -> None:
    driver, run_id = start_driver(output, "run", 0, 300)
    assert store.status(run_id) == "RUNNING"
    driver.kill()
    wait_for(lambda: is_delivered(output / "run"), "the writer ending the run")
    assert store.status(run_id) == "KILLED" and store.tags(run_id)["rayloom.end"] == "killed"
    assert store.points(run_id) == losses(0, 300)
    driver.wait(10)
    resumed, again = start_driver(output, "run", 200, 310)
    assert again == run_id
    wait_for(lambda: len(store.points(run_id)) == 310, "the points of the resumed driver")
    assert store.tags(run_id)["rayloom.end"] == "running" and store.status(run_id) == "RUNNING"
    os.killpg(resumed.pid, signal.SIGINT)  # Ctrl-C: the terminal signals the whole process group
    assert resumed.stdout is not None and resumed.stdout.readline() == "True\n"
    assert resumed.wait(10) == 0
    assert store.status(run_id) == "KILLED" and store.points(run_id) == losses(0, 310)
    assert store.tags(run_id)["rayloom.end"] == "killed"


def test_kill_9_of_driver_and_writer_is_reaped_by_the_next_run(output: Path, store: StoreView) -> None:
    driver, run_id = start_driver(output, "dead", 0, 50)
    (writer,) = psutil.Process(driver.pid).children()
    wait_for(lambda: len(store.points(run_id)) == 50, "the first points")
    writer.send_signal(signal.SIGSTOP)
    driver.kill()
    writer.kill()
    driver.wait(10)
    wait_for(lambda: not writer.is_running() or writer.status() == psutil.STATUS_ZOMBIE, "the writer's death")
    appended = journal.Journal(output / "dead")
    for step in range(50, 60):  # what the driver wrote and the writer did not read
        appended.append(
            {"kind": "metrics", "time": journal.now_ms(), "step": step, "values": {"train/loss": 1 / (step + 1)}}
        )
    with open(output / "dead" / "internal/journal.jsonl", "ab") as file:
        file.write(b'{"kind":"metrics","st')
    # The acknowledgement of the first points is lost too: they are sent again and must not double.
    journal.Acknowledgement().save(output / "dead")
    assert store.status(run_id) == "RUNNING" and find_stale(output) == [output / "dead"]

    tracker = start(output, "next")
    wait_for(lambda: is_delivered(output / "dead"), "the reaping")
    assert store.status(run_id) == "KILLED" and store.points(run_id) == losses(0, 60)
    live = tracker.wait_run_id(DEADLINE_S)
    assert live and store.status(live) == "RUNNING"
    assert tracker.finish("FINISHED", timeout_s=DEADLINE_S) and find_stale(output) == []
    assert len(store.runs()) == 2


def test_a_writer_that_dies_is_replaced_and_a_deleted_run_is_left_alone(output: Path, store: StoreView) -> None:
    tracker = start(output)
    run_id = tracker.wait_run_id(DEADLINE_S)
    tracker.log_metrics({"train/loss": 1.0}, 0)
    assert run_id and tracker._process is not None
    first = tracker._process.pid
    os.kill(first, signal.SIGTERM)  # ignored: a cluster manager signals every process of a job
    os.kill(first, signal.SIGINT)
    wait_for(lambda: store.points(run_id), "the first point")
    assert tracker._process.poll() is None
    tracker._process.kill()
    tracker._process.wait(10)
    tracker.log_metrics({"train/loss": 0.5}, 1)
    wait_for(lambda: tracker.set_tags({}) or len(store.points(run_id)) == 2, "another writer's point")
    assert tracker._process.pid != first
    assert store.points(run_id) == losses(0, 2)
    assert tracker.problem is None

    with sqlite3.connect(store.database, timeout=30) as connection:
        connection.execute("update runs set lifecycle_stage = 'deleted'")
    tracker.log_metrics({"train/loss": 1.0}, 2)
    assert tracker.finish("FINISHED", timeout_s=DEADLINE_S) is False
    assert tracker.problem == "the run was deleted from the store"
    assert [step for step, _, _ in tracker.history()] == [0, 1, 2]
    process = journal.owner(output / "run")
    write_json(output / "run" / journal.PROCESS, {**process, "created": 0.0})
    assert find_stale(output) == []  # nobody brings it back
