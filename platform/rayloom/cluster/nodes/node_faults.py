"""The nodes of the cluster that a run is connected to, and the end of one."""

from __future__ import annotations

import contextlib
import threading

import psutil
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

_DEADLINE_S = 30.0
_MOMENT_S = 0.2


def is_connected() -> bool:
    """Return whether this process has a Ray cluster already."""
    return bool(ray.is_initialized())


def driver_node() -> str:
    """Return the id of the node that carries this process."""
    return str(ray.get_runtime_context().get_node_id())


def strike_node(node_id: str) -> None:
    """Kill Ray on a node, as a power cut would; one that is gone already is left in peace.

    Never the driver's own node. Waits until a task there has found the victim.
    """
    assert node_id != driver_node()
    place = NodeAffinitySchedulingStrategy(node_id, soft=False)
    task = ray.remote(_kill_raylet).options(num_cpus=0, max_retries=0, scheduling_strategy=place)
    with contextlib.suppress(RayError):
        ray.get(task.remote(), timeout=_DEADLINE_S)


def _kill_raylet() -> None:
    """Kill the raylet among the ancestors of this worker, with which all ends that it started.

    A moment later, so that the answer gets out.
    """
    raylet = next(process for process in psutil.Process().parents() if process.name() == "raylet")
    threading.Timer(_MOMENT_S, raylet.kill).start()
