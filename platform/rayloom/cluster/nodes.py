"""The nodes of the cluster that a run is connected to, and the end of one."""

from __future__ import annotations

import os
import signal

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def is_connected() -> bool:
    """Return whether this process has a Ray cluster already."""
    return bool(ray.is_initialized())


def driver_node() -> str:
    """Return the id of the node that carries this process."""
    return str(ray.get_runtime_context().get_node_id())


def strike_node(node_id: str) -> None:
    """Kill Ray on a node, as a power cut would, without waiting for it; never the driver's own node."""
    assert node_id != driver_node()
    place = NodeAffinitySchedulingStrategy(node_id, soft=False)
    ray.remote(_kill_raylet).options(num_cpus=0, max_retries=0, scheduling_strategy=place).remote()


def _kill_raylet() -> None:
    """Kill the raylet among the ancestors of this worker: all that it started ends with it."""
    for process in psutil.Process(os.getpid()).parents():
        if process.name() == "raylet":
            process.send_signal(signal.SIGKILL)
            return
    raise AssertionError("a Ray worker without a raylet above it")
