"""Two hosts on this machine: network namespaces with a link between them that can be cut. Needs root and iproute2."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from loopback import RAY, clean_environment, end_tree
from tracking_store import wait_for

_IP = shutil.which("ip", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])) or "ip"
_LINK = "link0"


@dataclass
class Host:
    """A network namespace with an address of its own."""

    name: str
    address: str
    folder: Path
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, *command: str, cwd: Path, log: Path | None = None) -> subprocess.Popen[str]:
        """Start a command on this host; what it prints goes into pipes or into a log."""
        with contextlib.ExitStack() as stack:
            out: Any = subprocess.PIPE if log is None else stack.enter_context(open(log, "ab"))
            process = subprocess.Popen(
                [_IP, "netns", "exec", self.name, *command],
                cwd=cwd,
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                text=True,
                env=clean_environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(self.folder / "token")),
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def running(self, title: str) -> list[psutil.Process]:
        """Return the processes on this host whose title begins so."""
        found = []
        for pid in ip("netns", "pids", self.name).split():
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(int(pid))
                if process.name().startswith(title) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found


def ip(*arguments: str) -> str:
    """Run `ip`."""
    return subprocess.run([_IP, *arguments], check=True, capture_output=True, text=True, timeout=30).stdout


@dataclass
class Hosts:
    """Two hosts, each with a Ray node of two CPUs; the head is on the first."""

    first: Host
    second: Host

    @property
    def ray_address(self) -> str:
        """Where the head listens."""
        return f"{self.first.address}:6379"

    def cut(self) -> None:
        """Take the link down: nothing arrives any more, and nobody is told."""
        ip("-n", self.second.name, "link", "set", _LINK, "down")

    def run(self, config: Path, cwd: Path) -> subprocess.Popen[str]:
        """Start `rayloom run` on the first host."""
        return self.first.start(sys.executable, "-m", "rayloom", "run", str(config), "--json", cwd=cwd)


def _start_node(host: Host, folder: Path, *settings: str) -> None:
    command = [RAY, "start", f"--node-ip-address={host.address}", "--num-cpus=2", "--block", *settings]
    host.start(*command, cwd=folder, log=folder / f"{host.name}.log")
    try:
        wait_for(lambda: host.running("raylet"), f"the node {host.address}")
    except AssertionError as error:
        error.add_note((folder / f"{host.name}.log").read_text())
        raise


@contextlib.contextmanager
def two_hosts() -> Iterator[Hosts]:
    """Make two hosts and their Ray; skip where that is not allowed."""
    mark = secrets.token_hex(3)
    folder = Path(tempfile.mkdtemp(prefix="rl"))  # short: socket names are limited
    (folder / "token").write_text(secrets.token_hex(16))
    hosts = Hosts(*(Host(f"rl{mark}{letter}", f"10.231.7.{ord(letter) - 96}", folder) for letter in "ab"))
    both = (hosts.first, hosts.second)
    try:
        try:
            for host in both:
                ip("netns", "add", host.name)
            ends = [(_LINK, "netns", host.name) for host in both]
            ip("link", "add", *ends[0], "type", "veth", "peer", "name", *ends[1])
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"network namespaces need root and iproute2: {error}")
        for host in both:
            ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", _LINK)
            for device in ("lo", _LINK):
                ip("-n", host.name, "link", "set", device, "up")
        _start_node(hosts.first, folder, "--head", "--port=6379", "--include-dashboard=false", f"--temp-dir={folder}")
        _start_node(hosts.second, folder, f"--address={hosts.ray_address}")
        yield hosts
    finally:
        for host in both:
            for process in reversed(host.processes):
                if process.poll() is None:
                    end_tree(process)  # type: ignore[arg-type]
        for host in both:
            with contextlib.suppress(OSError, subprocess.CalledProcessError):
                for pid in ip("netns", "pids", host.name).split():
                    with contextlib.suppress(psutil.NoSuchProcess):
                        psutil.Process(int(pid)).kill()
                ip("netns", "delete", host.name)
        shutil.rmtree(folder, ignore_errors=True)
