"""A Ray cluster of a test's own on this machine, as `ray start` makes it: own ports, own folders, own token."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import psutil

DEADLINE_S = 180.0
BIN = Path(sys.executable).parent
RAY = str(BIN / "ray")


def free_port() -> int:
    """Return a port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def clean_environment(**variables: str) -> dict[str, str]:
    """Return this process's environment without what leads to other clusters, with the commands on the path."""
    dropped = ("PYTHONPATH", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "MLFLOW_TRACKING_URI", "RAY_JOB_SUBMIT_HOOK")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    path = os.pathsep.join([str(BIN), os.environ["PATH"]])
    return {**kept, "PATH": path, "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1,localhost", **variables}


@dataclass
class Cluster:
    """A head on loopback that asks for a token."""

    folder: Path
    token: Path
    port: int = field(default_factory=free_port)
    dashboard_port: int = field(default_factory=free_port)

    @property
    def url(self) -> str:
        """The dashboard's address."""
        return f"http://127.0.0.1:{self.dashboard_port}"

    def environment(self, **variables: str) -> dict[str, str]:
        """Return what a client of this cluster needs."""
        own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token), "RAY_TMPDIR": str(self.folder)}
        return clean_environment(**{**own, "HOME": str(self.folder), **variables})

    def start_command(self) -> list[str]:
        """Return `ray start` for the head."""
        ports = {
            "port": self.port,
            "dashboard-port": self.dashboard_port,
            "dashboard-agent-listen-port": free_port(),
            "dashboard-agent-grpc-port": free_port(),
            "ray-client-server-port": free_port(),
            "metrics-export-port": free_port(),
        }
        settings = [f"--{name}={value}" for name, value in ports.items()]
        places = ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--temp-dir={self.folder}"]
        return [RAY, "start", "--head", *settings, *places, "--num-cpus=2", "--include-dashboard=true", "--block"]

    def await_dashboard(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until the job server answers."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            assert process.poll() is None, (self.folder / "head.log").read_text()
            assert time.monotonic() < deadline, "the dashboard does not answer"
            try:
                urlopen(f"{self.url}/api/version", timeout=5).close()
                return
            except HTTPError as error:
                if error.code in (401, 403):  # it asks for the token: it is there
                    return
            except (URLError, OSError):
                pass
            time.sleep(0.1)


@contextlib.contextmanager
def loopback_cluster(**variables: str) -> Iterator[Cluster]:
    """Start a cluster whose nodes have these variables; at the end no process of it is left."""
    folder = Path(tempfile.mkdtemp(prefix="rl"))  # short: socket names are limited
    token = folder / "token"
    token.write_text(secrets.token_hex(16))
    cluster = Cluster(folder, token)
    with open(folder / "head.log", "wb") as log:
        process = subprocess.Popen(
            cluster.start_command(),
            stdout=log,
            stderr=log,
            env=cluster.environment(**variables),
            start_new_session=True,
        )
    try:
        cluster.await_dashboard(process)
        yield cluster
    finally:
        end_tree(process)
        shutil.rmtree(folder, ignore_errors=True)


def end_tree(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started, gently at first."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    process.terminate()
    _, alive = psutil.wait_procs(family, timeout=20)
    for member in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(alive, timeout=20)
    process.wait(timeout=20)


def copy_of_checkout(root: Path, folder: Path) -> Path:
    """Put what git would keep of the checkout into a git tree of its own, committed."""
    listed = subprocess.run(
        ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True,
        capture_output=True,
        timeout=60,
    ).stdout
    for name in listed.decode().split("\0"):
        if name and (root / name).is_file() and not name.startswith(("docs/pictures", "tests/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, folder / name)
    for command in (["init", "-q", "-b", "trunk"], ["add", "-A"], ["commit", "-q", "-m", "first"]):
        git(folder, *command)
    return folder


def git(folder: Path, *arguments: str) -> str:
    """Run git with an author."""
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
