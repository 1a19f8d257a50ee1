"""The processes behind actors: who they are, and ending one for certain, on whatever node it is."""

from __future__ import annotations

import os
import signal
from typing import Literal

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rayloom.errors import Process


def own_process(role: Literal["learner", "rollout", "evaluator"], index: int) -> Process:
    """Return the process of the actor that calls this."""
    pid = os.getpid()
    return Process(role, index, pid, ray.get_runtime_context().get_node_id(), psutil.Process(pid).create_time())


def strike(process: Process, number: int = signal.SIGKILL) -> None:
    """Send a signal to a process on any node, without waiting for it; one that is gone already is left in peace."""
    if process.node_id in (None, ray.get_runtime_context().get_node_id()):
        _send(process, number)
        return
    place = NodeAffinitySchedulingStrategy(process.node_id, soft=False)
    ray.remote(_send).options(num_cpus=0, max_retries=0, scheduling_strategy=place).remote(process, number)


def _send(process: Process, number: int) -> None:
    try:
        target = psutil.Process(process.pid)
        if process.created and abs(target.create_time() - process.created) > 1.0:
            return  # the number belongs to somebody else now
        target.send_signal(number)
    except psutil.NoSuchProcess:
        return
