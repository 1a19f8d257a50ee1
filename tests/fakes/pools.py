"""Pools of rollout workers that tests drive by hand."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import psutil
import torch

from rayloom.cluster.role_actors import pool_factory
from rayloom.config.schema import RunConfig
from rayloom.contract import Rollout


@contextlib.contextmanager
def opened(config: RunConfig) -> Iterator[Any]:
    """Make the pool of rollout actors that the config asks for; at the end none of its processes is left."""
    torch.manual_seed(0)
    algorithm = config.algorithm_class()(config.algorithm, config.source_class().describe(config.source))
    pool: Any = pool_factory(True, None)(config, algorithm, 0)
    try:
        yield pool
    finally:
        processes = pool.processes()
        pool.close()
        assert_gone([process.pid for process in processes])


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def assert_gone(pids: list[int]) -> None:
    """Wait until these processes have ended."""
    deadline = time.monotonic() + 30
    while any(_lives(pid) for pid in pids):
        assert time.monotonic() < deadline, "a rollout worker's process is left behind"
        time.sleep(0.05)


def collected(pool: Any, calls: int, num_steps: int = 20) -> list[list[Rollout]]:
    """Return the rollouts of each of several calls, each with weights of a version of its own."""
    found = []
    for version in range(calls):
        pool.publish(version)
        found.append(pool.collect(num_steps))
    return found
