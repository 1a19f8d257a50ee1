"""A password in an address stands in no file, no store and no line of a run or study; going on takes it again."""

from __future__ import annotations

import signal
import stat
from pathlib import Path

import pytest

from cases import case
from loopback import free_port
from processes import run_folder, write_config
from rayloom.files import write_json
from rayloom.tracking.journal import PROCESS, Acknowledgement, is_delivered, owner
from search_cases import GRID, Forked, kill_when, outcome, search, study, study_folder
from search_cases import resume as resume_study
from tracking_servers import mlflow_server
from tracking_store import DEADLINE_S, StoreView, empty_store, start, wait_for

SECRET = "planted5ecret"
SEARCH = {"space": GRID, "sampler": "grid", "metric": "evaluate/accuracy"}
TRACKED = {"enabled": True, "system_metrics": False}


def _files_with_it(folder: Path, given: Path) -> list[Path]:
    """Return the files below a folder that hold the password, but for the one in which the test gave it."""
    files = [path for path in folder.rglob("*") if path.is_file() and path != given]
    assert len(files) > 10
    return [path for path in files if SECRET.encode() in path.read_bytes()]


def _open_to_all(folder: Path) -> list[str]:
    names = ("internal/journal.jsonl", "optuna.journal", "study.db", "internal/writer.log", "config.yaml", "study.yaml")
    found = [path for name in names for path in folder.rglob(name)]
    assert found
    return [path.name for path in found if stat.S_IMODE(path.stat().st_mode) & stat.S_IROTH]


def test_a_run_at_a_server_with_a_password(tmp_path: Path) -> None:
    output, store = tmp_path / "out", tmp_path / "store"
    empty_store(store)
    port = free_port()
    uri = f"http://me:{SECRET}@127.0.0.1:{port}"
    algorithm = {"import": "search_cases:Probe", "pause_s": 0.02}
    tracking = {"uri": uri, "enabled": True, "system_metrics": False, "wait_for_model": True}
    config = case("softmax_regression", str(output), algorithm=algorithm, tracking=tracking)
    given = write_config(config, tmp_path)
    with mlflow_server(store, port):
        process = Forked("run", str(given), "--local", cwd=tmp_path)
        assert kill_when(process, lambda: list(output.glob("*/checkpoints/*")), signal.SIGTERM)
        code, line, err = outcome(process)
        assert code == 143 and line["status"] == "KILLED", err
        folder = run_folder(output)
        assert not _files_with_it(tmp_path, given)

        code, line, err = outcome(Forked("resume", folder.name, f"--output={output}", cwd=tmp_path))
        assert code == 2 and line["error"].startswith(f"tracking.uri: http://me:***@127.0.0.1:{port} stands here")
        assert "MLFLOW_TRACKING_URI" in line["error"]
        words = ("resume", folder.name, f"tracking.uri={uri}", f"--output={output}")
        code, line, err = outcome(Forked(*words, cwd=tmp_path))
        assert code == 0 and line["tracking_uri"] == f"http://me:***@127.0.0.1:{port}", err
        wait_for(lambda: is_delivered(folder), "the delivery")
    view = StoreView(store / "mlflow.db")
    (run_id,) = view.runs()
    assert view.status(run_id) == "FINISHED" and len(view.points(run_id)) > 10
    assert view.tags(run_id)["rayloom.place/tracking.uri"] == f"http://me:***@127.0.0.1:{port}"
    assert not _files_with_it(tmp_path, given)
    assert not _open_to_all(output)


def test_a_server_out_of_reach_is_told_of_without_its_password(tmp_path: Path) -> None:
    tracker = start(tmp_path, uri=f"http://me:{SECRET}@127.0.0.1:{free_port()}", drain_s=0.0)
    tracker.log_text("traceback.txt", f"at http://me:{SECRET}@127.0.0.1")
    log = tracker.run_dir / "internal/writer.log"
    wait_for(lambda: "not delivered" in log.read_text(), "the writer's word")
    assert "me:***@127.0.0.1" in (tracker.problem or "")
    tracker.finish("FAILED", timeout_s=0.0)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


def test_what_a_dead_run_left_is_delivered_by_the_next_one_that_knows_the_password(tmp_path: Path) -> None:
    store = empty_store(tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db?password={SECRET}"
    dead = start(tmp_path, "dead", uri=uri)
    assert dead._process is not None
    dead._process.kill()
    dead._process.wait(10)
    process = owner(dead.run_dir)
    write_json(dead.run_dir / PROCESS, {**process, "created": 0.0})
    stranger = start(tmp_path, "stranger", uri=f"sqlite:///{tmp_path}/mlflow.db")
    assert stranger.finish("FINISHED", timeout_s=DEADLINE_S)
    log = stranger.run_dir / "internal/writer.log"
    wait_for(
        lambda: "is recorded without its password" in (log.read_text() + problem(dead.run_dir)), "the reaper's word"
    )
    assert not is_delivered(dead.run_dir)
    friend = start(tmp_path, "friend", uri=uri)
    wait_for(lambda: is_delivered(dead.run_dir), "the delivery of what the dead run left")
    assert friend.finish("FINISHED", timeout_s=DEADLINE_S)
    assert sorted(map(store.status, store.runs())) == ["FINISHED", "FINISHED", "KILLED"]


def problem(run_dir: Path) -> str:
    return Acknowledgement.load(run_dir).problem or ""


@pytest.mark.full
def test_a_study_with_two_passwords(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    empty_store(output)
    uri = f"sqlite:///{output}/mlflow.db?password={SECRET}"
    storage = f"sqlite:///{tmp_path}/study.db?token={SECRET}"
    config = study("s", output, SEARCH | {"storage": storage}, tracking={"uri": uri, **TRACKED})
    process = search(config, tmp_path, "--local")
    given = tmp_path / "s.yaml"
    assert kill_when(process, lambda: list(output.glob("*/trials/0001/checkpoints/*")))
    assert not _files_with_it(tmp_path, given)

    code, line, _ = outcome(resume_study(output))
    assert code == 2 and "***" in line["error"] and "without its password" in line["error"]
    other = storage.replace("study.db", "other.db")
    code, line, _ = outcome(resume_study(output, f"search.storage={other}", MLFLOW_TRACKING_URI=uri))
    assert code == 2 and line["error"].startswith("search.storage: what goes on keeps its settings")
    code, line, err = outcome(resume_study(output, f"search.storage={storage}", MLFLOW_TRACKING_URI=uri))
    assert code == 0 and line["trials"]["COMPLETE"] == 4, err
    folder = study_folder(output)
    assert (folder / "artifacts" / "history.png").is_file(), (folder / "internal/pictures.log").read_text()
    wait_for(lambda: is_delivered(folder), "the delivery")
    assert len(StoreView(output / "mlflow.db").runs()) == 5
    assert not _files_with_it(tmp_path, given)
    assert not _open_to_all(folder) and not _open_to_all(tmp_path)


def test_a_failing_run_and_what_commands_show(tmp_path: Path) -> None:
    """The traceback of a failure, `show` and the sentences about a wrong address."""
    output = tmp_path / "out"
    algorithm = {"import": "search_cases:Probe", "fault": "raise", "fault_above": -1.0, "fault_at": 3}
    tracking = {"uri": f"postgresql+psycopg://me:{SECRET}@127.0.0.1:1/d", "enabled": False}
    given = write_config(case("softmax_regression", str(output), algorithm=algorithm, tracking=tracking), tmp_path)
    assert outcome(Forked("run", str(given), "--local", cwd=tmp_path))[0] == 1
    code, line, _ = outcome(Forked("show", str(given), "--local", cwd=tmp_path))
    assert code == 0 and line["config"]["tracking"]["uri"] == "postgresql+psycopg://me:***@127.0.0.1:1/d"
    code, line, _ = outcome(Forked("show", str(given), f"tracking.uri=mlruns://me:{SECRET}@h", "x=1", cwd=tmp_path))
    assert code == 2
    assert not _files_with_it(tmp_path, given)
