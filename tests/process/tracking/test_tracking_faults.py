"""A tracking server that refuses, hangs, loses answers and comes back: no point is lost or doubled."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from loopback import free_port
from rayloom.files import write_json
from rayloom.tracking import journal
from rayloom.tracking.tracker import Tracker
from rayloom.tracking.writer.leftovers import reap
from rayloom.tracking.writer.stale import find_stale
from tracking_servers import mlflow_server
from tracking_store import DEADLINE_S, StoreView, empty_store, losses, start, start_study, start_trial, wait_for


class FaultyLine:
    """A TCP relay on loopback in front of a server, with faults to choose from.

    forward: relay; refuse: close at once; hang: accept and never answer; cut: deliver requests that write, then close
    the connection in place of the answer, as a server that dies between doing and saying; drop: lose uploads.
    """

    WRITES = (b"runs/create", b"runs/log-batch")
    UPLOADS = (b"mlflow-artifacts",)

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._mode = "forward"
        self.faults = {"refuse": 0, "hang": 0, "cut": 0, "drop": 0}
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def set_mode(self, mode: str) -> None:
        self._mode = mode
        self.faults = dict.fromkeys(self.faults, 0)
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def close(self) -> None:
        self.set_mode("refuse")
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._open.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            if self._mode != "refuse":
                client.settimeout(60)
                with socket.create_connection(("127.0.0.1", self._server_port), timeout=60) as server:
                    self._open.append(server)
                    self._relay(client, server)
            else:
                self.faults["refuse"] += 1

    def _relay(self, client: socket.socket, server: socket.socket) -> None:
        cut, answered = threading.Event(), threading.Event()
        threading.Thread(target=self._answers, args=(client, server, cut, answered), daemon=True).start()
        while data := client.recv(65536):
            if self._mode == "hang":
                self.faults["hang"] += 1
                client.recv(1)  # until the client gives up
                return
            request = data.split(b"\r\n", 1)[0]
            if self._mode == "drop" and any(word in request for word in self.UPLOADS):
                self.faults["drop"] += 1
                return
            if self._mode == "cut" and any(word in request for word in self.WRITES):
                length = int(data.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                while len(data.split(b"\r\n\r\n", 1)[-1]) < length:
                    data += client.recv(65536)
                cut.set()
                server.sendall(data)
                assert answered.wait(60)
                self.faults["cut"] += 1
                return
            server.sendall(data)

    def _answers(
        self, client: socket.socket, server: socket.socket, cut: threading.Event, answered: threading.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if cut.is_set():
                    answered.set()
                    return
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    folder = tmp_path_factory.mktemp("server")
    empty_store(folder)
    port = free_port()
    with mlflow_server(folder, port):
        yield port, folder


@pytest.fixture
def line(server: tuple[int, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyLine]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    line = FaultyLine(server[0])
    yield line
    line.close()


def log(tracker: Tracker, first: int, last: int) -> None:
    for step in range(first, last):
        tracker.log_metrics({"train/loss": 1.0 / (step + 1)}, step)


def test_a_faulty_server_loses_and_doubles_nothing(tmp_path: Path, server: tuple[int, Path], line: FaultyLine) -> None:
    store = StoreView(server[1] / "mlflow.db")
    line.set_mode("refuse")
    tracker = start(tmp_path, uri=f"http://127.0.0.1:{line.port}", experiment="faults")
    tracker.log_text("config.yaml", "name: run\n")
    log(tracker, 0, 10)
    wait_for(lambda: line.faults["refuse"] and tracker.problem, "the writer noticing the refusal")
    assert tracker.run_id is None

    line.set_mode("cut")  # the run is created, but nobody hears of it
    wait_for(lambda: line.faults["cut"] >= 3, "lost answers")
    log(tracker, 10, 20)
    line.set_mode("hang")
    wait_for(lambda: line.faults["hang"] >= 2, "hanging requests")
    line.set_mode("forward")
    run_id = tracker.wait_run_id(DEADLINE_S)
    assert run_id
    wait_for(lambda: len(store.points(run_id)) == 20, "the first points")

    line.set_mode("cut")
    log(tracker, 20, 30)
    wait_for(lambda: line.faults["cut"] >= 2 and len(store.points(run_id)) == 30, "points whose answer is lost")

    line.set_mode("drop")
    log(tracker, 30, 40)
    tracker.log_text("late.txt", "late\n")
    wait_for(lambda: line.faults["drop"] >= 2 and len(store.points(run_id)) == 40, "a text that cannot be uploaded")
    line.set_mode("forward")
    assert tracker.finish("FINISHED", timeout_s=DEADLINE_S)
    assert store.points(run_id) == losses(0, 40)
    assert store.rows("select count(*) from runs") == [(1,)]  # no twin was created and deleted on the way
    assert store.status(run_id) == "FINISHED" and store.runs() == [run_id]
    assert tracker.problem is None
    texts = {
        path.name: path.read_text() for pattern in ("*.yaml", "*.txt") for path in (server[1] / "a").rglob(pattern)
    }
    assert texts == {"config.yaml": "name: run\n", "late.txt": "late\n"}


def test_what_a_dead_server_missed_is_delivered_later(
    tmp_path: Path, server: tuple[int, Path], line: FaultyLine
) -> None:
    store = StoreView(server[1] / "mlflow.db")
    line.set_mode("refuse")
    tracker = start(tmp_path, uri=f"http://127.0.0.1:{line.port}", experiment="late", drain_s=0.5)
    log(tracker, 0, 5)
    assert tracker.finish("FAILED", timeout_s=DEADLINE_S) is False  # at once when the writer has given up
    assert tracker.problem
    finished = [record["time"] for record, _ in journal.read_records(tmp_path / "run") if record["kind"] == "finish"]

    process = journal.owner(tmp_path / "run")
    assert find_stale(tmp_path) == []  # this process lives
    write_json(tmp_path / "run" / journal.PROCESS, {**process, "created": 0.0})
    line.set_mode("forward")
    with journal.locked(tmp_path / "run" / journal.LOCK, 10.0) as held:
        assert held
        assert reap(tmp_path, 30.0) == []  # somebody serves it
    assert reap(tmp_path, 30.0) == [tmp_path / "run"]
    run_id = tracker.run_id
    assert run_id and store.points(run_id) == losses(0, 5)
    assert store.rows("select status, end_time from runs where run_uuid = ?", run_id) == [("FAILED", *finished)]
    assert reap(tmp_path, 30.0) == []


def test_a_study_loses_and_doubles_nothing(tmp_path: Path, server: tuple[int, Path], line: FaultyLine) -> None:
    store = StoreView(server[1] / "mlflow.db")
    there: dict[str, str] = {"uri": f"http://127.0.0.1:{line.port}", "experiment": "study"}
    line.set_mode("refuse")
    study = start_study(tmp_path, **there)
    trials = [start_trial(tmp_path, number, **there) for number in range(2)]
    for trial in trials:
        log(trial, 0, 10)
    assert trials[0].finish("FINISHED")
    wait_for(lambda: line.faults["refuse"] and study.problem, "the host noticing the refusal")
    line.set_mode("cut")
    wait_for(lambda: line.faults["cut"] >= 4, "lost answers")
    line.set_mode("forward")
    ids = [wait_for(lambda trial=trial: trial.run_id, "the trial's run") for trial in trials]
    wait_for(lambda: len(store.points(ids[1])) == 10, "the first points")
    line.set_mode("cut")
    log(trials[1], 10, 20)
    wait_for(lambda: line.faults["cut"] >= 2 and study.problem, "points whose answer is lost")
    line.set_mode("forward")
    assert study.finish("FINISHED", timeout_s=DEADLINE_S) and study.problem is None
    assert [store.points(run_id) for run_id in ids] == [losses(0, 10), losses(0, 20)]
    assert [store.status(run_id) for run_id in (str(study.run_id), *ids)] == ["FINISHED", "FINISHED", "KILLED"]
    query = "select count(*) from runs r join experiments e using (experiment_id) where e.name = 'study'"
    assert store.rows(f"{query} and r.lifecycle_stage = 'active'") == [(3,)]
