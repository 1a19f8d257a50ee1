"""Starting Ray, and waiting for its actors: with deadlines, and with the exceptions that actors really raised."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

import grpc  # type: ignore[import-untyped]
import ray
from ray._private.state import available_resources_per_node
from ray.exceptions import AuthenticationError, OutOfMemoryError, RayError, RayTaskError

from rayloom.cluster.nodes.packing import Node, shortfall
from rayloom.config.schema import RunConfig
from rayloom.errors import RoleDiedError, RoleTimeoutError, UserError
from rayloom.runs.plan import Bundle, cluster_address

_KNOCK_S = 10.0
_NODE_GROUP = "ray.io/node-group"


def wait(refs: Sequence[Any], names: Sequence[str], deadline_s: float) -> list[Any]:
    """Return the answers of several actors; each failure names the role and keeps the original exception.

    The first failure counts: the others may be waiting for the one that failed.
    """
    deadline = time.monotonic() + deadline_s
    pending = list(refs)
    try:
        while pending:
            ready, pending = ray.wait(pending, num_returns=1, timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                missing = [name for ref, name in zip(refs, names, strict=True) if ref in pending]
                raise RoleTimeoutError(
                    f"{', '.join(missing)} did not answer within {deadline_s:g} s (cluster.deadline_s)"
                )
            ray.get(ready)
        answers: list[Any] = ray.get(list(refs))
        return answers
    except RayTaskError as error:
        raise original(error) from None
    except RayError as error:
        raise RoleDiedError(f"one of {', '.join(names)} died: {how_it_died(error)}") from error


def how_it_died(error: Exception) -> str:
    """Return in one line what Ray knows about a death; actors that could not be made have their exception last."""
    if isinstance(error, OutOfMemoryError):
        return "its machine was low on memory, so Ray killed it"
    text = " ".join(str(error).split())
    detail = text.partition("Worker exit detail:")[2].partition("Some common causes")[0].strip()
    return detail or text[-300:]


def original(error: RayTaskError) -> BaseException:
    """Return the exception that an actor raised, with its remote traceback as a note."""
    cause = error.cause
    if isinstance(cause, RayTaskError):  # an actor that passed on the failure of its own actor
        return original(cause)
    if not isinstance(cause, BaseException):
        return RuntimeError(str(error))
    if not isinstance(cause, UserError):
        cause.add_note(f"raised in a Ray actor:\n{error}")
    return cause


def start_ray(config: RunConfig) -> bool:
    """Connect to the cluster, or start a Ray of this run's own; return whether this call did it."""
    started = not ray.is_initialized()
    if started:
        address = cluster_address(config)
        if address:
            connect(address, config.cluster.deadline_s)
        else:
            options: dict[str, Any] = {"include_dashboard": False, "num_cpus": os.cpu_count()}
            _start_own(options)
    return started


def _start_own(options: dict[str, Any]) -> None:
    """Start a Ray on this machine, with a second try; UserError in one sentence when it does not come up."""
    for tries_left in (1, 0):
        try:
            # "local": without it Ray would join whatever cluster was started on this machine last.
            ray.init(address="local", log_to_driver=False, logging_level=logging.ERROR, **options)
            return
        except Exception as error:  # noqa: BLE001  Ray raises whatever the part raised that did not start
            ray.shutdown()
            if tries_left:
                continue
            text = str(error).strip()
            reason = text.splitlines()[0][:200] if text else type(error).__name__
            raise UserError(
                f"cluster: Ray did not start on this machine, twice ({reason}); free memory, room in /dev/shm and on "
                "the disk, or name a folder that can be written in RAY_TMPDIR; --local does without Ray"
            ) from None


def connect(address: str, deadline_s: float) -> None:
    """Connect to a running cluster; UserError in one sentence when none answers there."""
    remedy = (
        "start one or set cluster.address to null; if it asks for a token, set RAY_AUTH_MODE=token and "
        "RAY_AUTH_TOKEN_PATH as on its nodes"
    )
    try:
        _knock(address, min(deadline_s, _KNOCK_S))
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, AuthenticationError) as error:  # Ray's ConnectionError is an OSError
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"cluster.address: no Ray cluster answers at {address} ({reason}); {remedy}") from None


def _knock(address: str, deadline_s: float) -> None:
    """Raise OSError when no Ray listens at the address: Ray itself would ask for a quarter of an hour."""
    host, _, port = address.rpartition("://")[2].rstrip("/").rpartition(":")
    if not port.isdigit() or not host:
        return  # "auto", which Ray resolves at once
    with socket.create_connection((host.strip("[]"), int(port)), timeout=deadline_s):
        pass
    if os.environ.get("RAY_USE_TLS", "0") in ("", "0"):
        with grpc.insecure_channel(f"{host}:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
            try:
                grpc.channel_ready_future(channel).result(timeout=deadline_s)
            except grpc.FutureTimeoutError:
                raise ConnectionError(f"port {port} is not Ray's; it is 6379 unless told otherwise") from None


def live_nodes() -> list[Node]:
    """Return the nodes of the cluster, the dead ones last."""
    free = available_resources_per_node()
    nodes = []
    for node in ray.nodes():
        have, left = node["Resources"], free.get(node["NodeID"], {})
        nodes.append(
            Node(
                address=node["NodeManagerAddress"],
                cpus=have.get("CPU", 0.0),
                gpus=have.get("GPU", 0.0),
                free_cpus=left.get("CPU", 0.0),
                free_gpus=left.get("GPU", 0.0),
                node_id=node["NodeID"],
                alive=node["Alive"],
                group=node.get("Labels", {}).get(_NODE_GROUP, ""),
            )
        )
    return sorted(nodes, key=lambda node: not node.alive)


def check_room(bundles: Sequence[Bundle], config: RunConfig) -> None:
    """Raise UserError when the cluster could not hold the bundles even if nobody else used it: Ray would wait for ever.

    Where an autoscaler may start more nodes, only time can tell.
    """
    nodes = live_nodes()
    missing = shortfall(bundles, nodes, config.cluster.placement)
    if missing is not None and not any(node.group for node in nodes if node.alive):
        raise UserError(missing)


def search_path() -> list[str]:
    """Return where this process finds modules, so that actors find the same algorithm files."""
    return [path or os.getcwd() for path in sys.path]


def extend_search_path(paths: Sequence[str]) -> None:
    sys.path.extend(path for path in paths if path not in sys.path and os.path.isdir(path))
