"""`rayloom ui`: which store it serves, to whom, and what it says where it cannot."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from loopback import free_port
from rayloom.cli import main as cli


@pytest.fixture
def no_exec(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Collect the commands that would replace this process."""
    commands: list[list[str]] = []
    monkeypatch.setattr("rayloom.cli.ui_server.os.execv", lambda path, command: commands.append([path, *command]))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return commands


def test_the_ui_serves_the_run_store_on_loopback(tmp_path: Path, no_exec: list[list[str]]) -> None:
    (tmp_path / "mlflow.db").touch()
    port = free_port()
    cli.main(["ui", "--output", str(tmp_path), "--port", str(port)])
    assert no_exec == [
        [
            sys.executable, sys.executable, "-P", "-m", "rayloom.tracking.writer.ui_server",
            f"sqlite:///{tmp_path}/mlflow.db", f"file://{tmp_path}/mlartifacts", "127.0.0.1", str(port),
        ]
    ]  # fmt: skip


def test_the_ui_follows_the_tracking_uri(
    tmp_path: Path, no_exec: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.db").touch()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    cli.main(["ui", "--port", str(free_port())])
    assert f"sqlite:///{tmp_path}/other.db" in no_exec[0]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:hush@db/runs")
    cli.main(["ui", "--port", str(free_port())])
    assert "postgresql://me:***@db/runs" in no_exec.pop()
    assert os.environ["MLFLOW_TRACKING_URI"] == "postgresql://me:hush@db/runs"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker:5000")
    assert cli.main(["ui"]) == 2
    assert "open http://tracker:5000 in a browser" in capsys.readouterr().err
    assert len(no_exec) == 1


def test_a_ui_for_others_says_what_that_means(
    tmp_path: Path, no_exec: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mlflow.db").touch()
    for host, told in (("0.0.0.0", True), ("127.0.0.1", False), ("localhost", False)):
        cli.main(["ui", "--output", str(tmp_path), "--host", host, "--port", str(free_port())])
        assert no_exec.pop()[-2] == host
        assert (f"--host {host}: whoever reaches this address can read" in capsys.readouterr().err) is told


def test_a_ui_of_nothing_is_one_sentence(
    tmp_path: Path, no_exec: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["ui", "--output", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"rayloom: there is no run store {tmp_path}/mlflow.db: train first, or name the folder with --output\n"
    )
    assert no_exec == []
    assert list(tmp_path.iterdir()) == []  # looking makes no store


def test_a_busy_port_is_one_sentence(
    tmp_path: Path, no_exec: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mlflow.db").touch()
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        assert cli.main(["ui", "--output", str(tmp_path), "--port", str(port)]) == 2
    assert capsys.readouterr().err == (
        f"rayloom: cannot listen on 127.0.0.1:{port} (Address already in use); "
        f"choose another, as rayloom ui --port {port + 1}\n"
    )
    assert cli.main(["ui", "--output", str(tmp_path), "--port", "70000"]) == 2
    assert "choose one up to 65535" in capsys.readouterr().err
    assert no_exec == []
