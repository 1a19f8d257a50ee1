"""Starting Ray, and waiting for its actors: with deadlines, and with the exceptions that actors really raised."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from rayloom.config import RunConfig
from rayloom.contract import UserError
from rayloom.plan import Plan


class RoleTimeoutError(RuntimeError):
    """A role did not answer before its deadline."""


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
    except RayActorError as error:
        raise RuntimeError(f"one of {', '.join(names)} died: {error}") from error


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


def start_ray(config: RunConfig, plan: Plan) -> bool:
    """Connect to the cluster, or start a Ray of this run's own; return whether this call did it.

    Raises UserError at once when the cluster cannot hold the plan: Ray itself would wait for ever.
    """
    started = not ray.is_initialized()
    if started:
        address = config.cluster.address or os.environ.get("RAY_ADDRESS")
        options: dict[str, Any] = {} if address else {"include_dashboard": False, "num_cpus": os.cpu_count()}
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
        except ConnectionError as error:
            raise UserError(
                f"cluster.address: no Ray cluster answers at {address} ({str(error).splitlines()[0]}); start one or "
                f"set cluster.address to null"
            ) from None
    have = ray.cluster_resources()
    for resource, key in (("cpus", "CPU"), ("gpus", "GPU")):
        need = plan.total(resource)  # type: ignore[arg-type]
        if need > have.get(key, 0.0):
            if started:
                ray.shutdown()
            raise UserError(
                f"the plan reserves {need:g} {key}s but the Ray cluster has {have.get(key, 0.0):g}; use fewer rollout "
                f"workers (source.rollout_workers) or fewer resources for each"
            )
    return started


def search_path() -> list[str]:
    """Return where this process finds modules, so that actors find the same algorithm files."""
    return [path or os.getcwd() for path in sys.path]


def extend_search_path(paths: Sequence[str]) -> None:
    sys.path.extend(path for path in paths if path not in sys.path and os.path.isdir(path))
