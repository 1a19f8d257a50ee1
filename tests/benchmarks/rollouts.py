"""Rollout workers side by side: an environment that sleeps 5 ms in every step, with 8 and 32 workers against one.

What the workers do not wait for they could do on any number of machines: the ratio tells what the engine takes.
"on policy" is PPO, where workers and learner wait for each other; "asynchronous" is IMPALA, where they do not.
A worker steps its environments one after another, so that each sleeps alone; several share one inference.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bench import Comparison
from timing import Stopwatch

import rayloom

sys.path.append(str(Path(__file__).resolve().parent.parent / "fakes"))  # the environment that sleeps
from cases import case
from memory import AHEAD, Memory, SoakOverError

_SOAK_S = 600.0
_SECONDS = {1: 12.0, 8: 20.0}
"""What one worker takes, by environments of a worker: the rollouts of eight take longer to come."""
_STEPS_PER_S = 150.0
"""A little less than what one worker does."""


def steps_per_s(kind: str, num_envs: int, workers: int) -> float:
    """Return the environment steps per second of a run with so many rollout workers of `num_envs` environments."""
    total_envs = num_envs * workers
    environment = {"env": "faulty_environment:Sleeping-v0", "num_envs": total_envs, "rollout_workers": workers}
    source = {"kind": kind, **environment, "worker_cpus": 0}
    if kind == "on_policy":
        rollout_steps = 64 if num_envs == 1 else 32
        algorithm, batch_size = "rayloom_agents.policy_gradient.ppo:PPO", rollout_steps * total_envs
        source |= {"rollout_steps": rollout_steps, "epochs": 1}
    else:
        algorithm, batch_size = "rayloom_agents.policy_gradient.impala:IMPALA", total_envs
        source |= {"rollout_steps": 20, "in_flight": 2, "order": "arrival"}
    tree: dict[str, Any] = {
        "algorithm": {"import": algorithm},
        "source": source,
        "learner": {"batch_size": batch_size},
        "evaluate": {"episodes": 1},
        "stop": {"env_steps": int(_SECONDS[num_envs] * _STEPS_PER_S * workers)},
        "tracking": {"system_metrics": False},
    }
    stopwatch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        rayloom.run({**tree, "output": folder, "name": "benchmark"}, observer=stopwatch)
    total = stopwatch.points[-1][1]["env_steps"]
    before = [point for point in stopwatch.points if point[1]["env_steps"] < total]
    stopwatch.points = before + stopwatch.points[len(before) : len(before) + 1]  # without the last evaluation
    return stopwatch.rate("env_steps")


def _rollouts() -> list[Comparison]:
    return [
        Comparison(
            f"{workers} rollout workers of {environments}, {name}, 5 ms a step",
            "env steps/s",
            1,
            partial(steps_per_s, kind, num_envs, workers),
            partial(steps_per_s, kind, num_envs, 1),
            "1 worker",
            target,
        )
        for name, kind in (("on policy", "on_policy"), ("asynchronous", "asynchronous"))
        for workers, num_envs, environments, target in (
            (8, 1, "1 environment", "7.2"),
            (32, 1, "1 environment", "25"),
            (32, 8, "8 environments", "25"),
        )
    ]


def _member(rank: int, world_size: int, port: int, size: int, times: Any) -> None:
    from rayloom.cluster.process_group import ProcessGroup

    torch.set_num_threads(1)
    group = ProcessGroup(rank, world_size, torch.device("cpu"), 60.0)
    group.connect("127.0.0.1", port, 60.0)
    tensor = torch.ones(size)
    for _ in range(60):
        started = time.perf_counter()
        group.all_reduce(tensor)
        tensor /= world_size
        times.put(time.perf_counter() - started)
    group.close()


def all_reduce_ms(size: int = 1_000_000) -> float:
    """Return the median milliseconds of summing `size` float32 over two processes."""
    import torch.distributed as dist

    store = dist.TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    context = torch.multiprocessing.get_context("spawn")
    times = context.Queue()
    members = [context.Process(target=_member, args=(rank, 2, store.port, size, times)) for rank in range(2)]
    for member in members:
        member.start()
    found = [times.get(timeout=120) for _ in range(120)]
    for member in members:
        member.join(60)
    return 1e3 * statistics.median(found[20:])


def _copy_ms(size: int = 1_000_000) -> float:
    """Return the median milliseconds of copying that tensor once in memory."""
    source, target = torch.ones(size), torch.empty(size)
    times = []
    for _ in range(60):
        started = time.perf_counter()
        target.copy_(source)
        times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times)


def _reduce() -> list[Comparison]:
    return [
        Comparison(
            "all-reduce of 1 M parameters, 2 learners, gloo on loopback",
            "ms",
            1,
            all_reduce_ms,
            _copy_ms,
            "one copy in memory",
            "<= 15 ms",
            lower_is_better=True,
        )
    ]


class _Soak:
    """Ten minutes of rollouts that run ahead, on Ray: what its processes hold at the end and before."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._memory = Memory(_SOAK_S, family=True)

    def last_third(self) -> float:
        """Run, and return the most that all processes held in the last third (MiB)."""
        self._memory = Memory(_SOAK_S, family=True)
        with tempfile.TemporaryDirectory() as folder, contextlib.suppress(SoakOverError):
            often = {"tracking": {"every": "500 updates"}, "checkpoint": {"every": "5000 updates"}}
            config = case(self._name, folder, source=AHEAD, evaluate={"every": "5000 updates"}, **often)
            rayloom.run(replace(config, stop={"updates": 10**12}), observer=self._memory)
        return self._held(2)

    def second_third(self) -> float:
        """Return the same of the third before."""
        return self._held(1)

    def _held(self, third: int) -> float:
        return sum(self._memory.largest_mib(name, third) for name in self._memory.points[-1][1])


def _memory() -> list[Comparison]:
    soaks = {"IMPALA": _Soak("impala"), "Ape-X DQN": _Soak("dqn_ahead")}
    return [
        Comparison(
            f"memory of all processes, 10 minutes of {name}",
            "MiB",
            1,
            soak.last_third,
            soak.second_third,
            "the third before",
            "1",
            lower_is_better=True,
            rounds=1,
        )
        for name, soak in soaks.items()
    ]


COMPARISONS: dict[str, Callable[[], list[Comparison]]] = {
    "rollouts": _rollouts,
    "all_reduce": _reduce,
    "memory": _memory,
}
