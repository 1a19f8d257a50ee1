"""The server of `rayloom ui`: the runs are there, and MLflow's assistant is not."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow.server.assistant.api import assistant_router
from mlflow.server.fastapi_app import app

from loopback import free_port
from rayloom.tracking.writer.ui_server import without_assistant
from tracking_servers import answers
from tracking_store import DEADLINE_S, empty_store, start, wait_for


def assistant_routes() -> list[tuple[str, str]]:
    """Return method and path of everything that MLflow's assistant answers."""
    found = [
        (method, route.path.replace("{", "").replace("}", ""))  # type: ignore[attr-defined]
        for route in assistant_router.routes
        for method in route.methods  # type: ignore[attr-defined]
    ]
    assert len(found) > 8 and all("/assistant" in path for _, path in found)
    return found


@pytest.fixture
def odd_output(tmp_path: Path) -> Path:
    """Return an output folder with one run, whose name means something in a URL."""
    output = tmp_path / "a b#c?d%20é"
    empty_store(output)
    tracker = start(output)
    tracker.log_text("config.yaml", "name: run\n")
    assert tracker.finish("FINISHED", timeout_s=DEADLINE_S)
    return output


@pytest.fixture
def port(odd_output: Path) -> Iterator[int]:
    """Return the port of `rayloom ui` on that folder."""
    port = free_port()
    words = ["ui", "--output", str(odd_output), "--port", str(port)]
    with open(odd_output / "ui.log", "wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "rayloom", *words], stdout=log, stderr=log)
    try:
        wait_for(lambda: answers(port) or process.poll() is not None, "the server's start")
        yield port
        process.send_signal(signal.SIGINT)
        process.wait(30)
    finally:
        process.kill()
        process.wait(10)


def ask(port: int, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_the_ui_serves_runs_and_no_assistant(port: int, odd_output: Path) -> None:
    for method, path in assistant_routes():
        assert ask(port, method, path, {}) == (404, b"rayloom ui serves no assistant\n"), path
        assert ask(port, method, path.replace("assistant", "%61ssistant"), {})[0] == 404, path
    status, page = ask(port, "GET", "/")
    assert status == 200 and b"<html" in page
    found = ask(port, "GET", "/api/2.0/mlflow/experiments/get-by-name?experiment_name=agents")[1]
    assert b"experiment_id" in found, found
    experiments = {"experiment_ids": [json.loads(found)["experiment"]["experiment_id"]]}
    status, found = ask(port, "POST", "/api/2.0/mlflow/runs/search", experiments)
    (run,) = json.loads(found)["runs"]
    assert status == 200 and run["info"]["status"] == "FINISHED"
    run_id = run["info"]["run_id"]
    assert ask(port, "GET", f"/get-artifact?path=config.yaml&run_uuid={run_id}") == (200, b"name: run\n")
    assert {entry.name for entry in odd_output.parent.iterdir()} == {odd_output.name}
    assert set(_listeners(port)) == {"127.0.0.1"}


def _listeners(port: int) -> list[str]:
    """Return the addresses on which this machine listens on a port."""

    return [
        found.laddr.ip
        for found in psutil.net_connections("tcp")
        if found.laddr.port == port and found.status == "LISTEN"
    ]


def test_mlflow_itself_would_answer_there() -> None:
    """What is kept out is there in this MLflow: a change of its paths shows here."""
    for path in {path for _, path in assistant_routes()}:
        sent = asyncio.run(_answer(without_assistant(app), path))
        assert sent[0]["status"] == 404 and sent[1]["body"] == b"rayloom ui serves no assistant\n"
    bare = asyncio.run(_answer(app, "/ajax-api/3.0/mlflow/assistant/config"))
    assert bare[0]["status"] != 404, "the assistant has moved"
    passed = asyncio.run(_answer(without_assistant(app), "/health"))
    assert passed[0]["status"] == 200


async def _answer(application: Any, path: str) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b""}
    scope |= {"headers": [(b"host", b"localhost")], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2)}
    scope |= {"http_version": "1.1", "scheme": "http", "root_path": "", "asgi": {"version": "3.0"}, "state": {}}
    await application(scope, receive, send)
    return sent
