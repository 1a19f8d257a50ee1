"""Roles as Ray actors: the only file of the engine that imports ray.

    driver ----owns----> learner actor (or the driver itself) ----owns----> rollout actors
       \\---owns----> evaluator actor

Ownership is the supervision tree: an actor dies with its owner. Weights go through the object store once per version;
trajectories go straight from rollout actors to their learner. Every wait has the deadline `cluster.deadline_s`.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray
import torch
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from rayloom.config import RunConfig, from_tree
from rayloom.contract import Algorithm, Progress, UserError
from rayloom.evaluate import Evaluation, Evaluator
from rayloom.plan import Plan, make_plan
from rayloom.roles import Advance, LearnerRole, load_run_dataset, source_spec
from rayloom.rollout import Rollout, RolloutWorker, environment_share
from rayloom.schedule import Counters, Schedule

_PAUSE_S = 10.0


class RoleTimeoutError(RuntimeError):
    """A role did not answer before its deadline."""


def wait(refs: Sequence[Any], names: Sequence[str], deadline_s: float) -> list[Any]:
    """Return the answers of several actors; each failure names the role and keeps the original exception."""
    try:
        answers: list[Any] = ray.get(list(refs), timeout=deadline_s)
        return answers
    except GetTimeoutError:
        _, late = ray.wait(list(refs), num_returns=len(refs), timeout=0)
        missing = [name for ref, name in zip(refs, names, strict=True) if ref in late]
        raise RoleTimeoutError(
            f"{', '.join(missing)} did not answer within {deadline_s:g} s (cluster.deadline_s)"
        ) from None
    except RayTaskError as error:
        raise _original(error) from None
    except RayActorError as error:
        raise RuntimeError(f"one of {', '.join(names)} died: {error}") from error


def _original(error: RayTaskError) -> BaseException:
    """Return the exception that an actor raised, with its remote traceback as a note."""
    cause = error.cause
    if isinstance(cause, RayTaskError):  # an actor that passed on the failure of its own actor
        return _original(cause)
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


def _search_path() -> list[str]:
    """Return where this process finds modules, so that actors find the same algorithm files."""
    return [path or os.getcwd() for path in sys.path]


def _extend_search_path(paths: Sequence[str]) -> None:
    sys.path.extend(path for path in paths if path not in sys.path and os.path.isdir(path))


class _RolloutActor:
    """A rollout worker with a process of its own."""

    def __init__(self, tree: dict[str, Any], index: int, paths: list[str]) -> None:
        _extend_search_path(paths)
        self._worker = RolloutWorker(from_tree(tree), index)

    def ready(self) -> bool:
        """Answer once the environments stand."""
        return True

    def collect(self, num_steps: int, version: int, weights: Mapping[str, Any], progress: Progress) -> Rollout:
        """Take the weights if they are new, and step."""
        self._worker.load_weights(version, weights, progress)
        return self._worker.collect(num_steps)

    def barrier(self) -> None:
        """Restart the environments."""
        self._worker.barrier()

    def state_dict(self) -> dict[str, Any]:
        """Return the worker's state."""
        return self._worker.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the worker."""
        self._worker.load_state_dict(state)


class RayPool:
    """Rollout workers as Ray actors, owned by the process that makes this pool."""

    def __init__(self, config: RunConfig, algorithm: Algorithm) -> None:
        source: Any = config.source
        environment_share(config, 0)
        self._algorithm = algorithm
        self._deadline_s = config.cluster.deadline_s
        self._version = -1
        self._weights: Any = None
        actor = ray.remote(_RolloutActor)
        self._names = [f"rollout worker {index}" for index in range(source.rollout_workers)]
        self._actors = [
            actor.options(num_cpus=source.worker_cpus, max_restarts=0).remote(config.to_tree(), index, _search_path())
            for index in range(source.rollout_workers)
        ]
        self._await([actor.ready.remote() for actor in self._actors])

    def _await(self, refs: Sequence[Any]) -> list[Any]:
        return wait(refs, self._names, self._deadline_s)

    def publish(self, version: int) -> None:
        """Put the learner's weights into the object store, once per version."""
        if version == self._version:
            return
        self._version = version
        weights = {name: value.detach().cpu().numpy() for name, value in self._algorithm.state_dict().items()}
        self._weights = ray.put(weights)

    def collect(self, num_steps: int) -> list[Rollout]:
        """Step all workers at once and wait for all."""
        progress = self._algorithm.progress
        refs = [actor.collect.remote(num_steps, self._version, self._weights, progress) for actor in self._actors]
        rollouts: list[Rollout] = self._await(refs)
        # The arrays are read-only views that pin objects in the store: copies let them go.
        return [
            Rollout({name: array.copy() for name, array in r.arrays.items()}, r.episodes, r.env_steps) for r in rollouts
        ]

    def barrier(self) -> None:
        """Restart every environment."""
        self._await([actor.barrier.remote() for actor in self._actors])

    def state_dict(self) -> dict[str, Any]:
        """Return the state of every worker."""
        return {"workers": self._await([actor.state_dict.remote() for actor in self._actors])}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore every worker."""
        pairs = zip(self._actors, state["workers"], strict=True)
        self._await([actor.load_state_dict.remote(saved) for actor, saved in pairs])

    def close(self) -> None:
        """End the actors."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []


class _EvaluatorActor:
    """An evaluator with a process and a copy of the algorithm of its own."""

    def __init__(self, tree: dict[str, Any], paths: list[str]) -> None:
        _extend_search_path(paths)
        config = from_tree(tree)
        torch.set_num_threads(config.learner.threads)  # as in the driver, whose numbers this one's must equal
        dataset = load_run_dataset(config)
        self._algorithm = config.algorithm_class()(config.algorithm, source_spec(config, dataset))
        self._evaluator = Evaluator(config, self._algorithm, dataset)

    def evaluate(
        self, number: int, weights: Mapping[str, Any], progress: Progress, split: str | None, episodes: int | None
    ) -> Evaluation:
        """Evaluate these weights."""
        self._algorithm.load_state_dict(weights)
        self._algorithm.progress = progress
        return self._evaluator.evaluate(number, split, episodes)


class _LearnerActor(LearnerRole):
    """The learner's role with a process of its own."""

    def __init__(self, tree: dict[str, Any], ray_pool: bool, paths: list[str]) -> None:
        _extend_search_path(paths)
        super().__init__(from_tree(tree), *((RayPool,) if ray_pool else ()))


class RayRole:
    """What the loop drives when any role is an actor."""

    def __init__(self, config: RunConfig, plan: Plan) -> None:
        self._started = start_ray(config, plan)
        self._deadline_s = config.cluster.deadline_s
        self._learner: Any = None
        self._local: LearnerRole | None = None
        self._evaluator: Any = None
        try:
            self._make_roles(config, plan)
        except BaseException:
            self.close()
            raise

    def _make_roles(self, config: RunConfig, plan: Plan) -> None:
        learner = plan.role("learner")
        remote_rollouts = any(role.name == "rollout" and role.place == "actor" for role in plan.roles)
        if plan.role("evaluator").place == "actor":
            actor = ray.remote(_EvaluatorActor)
            self._evaluator = actor.options(num_cpus=1).remote(config.to_tree(), _search_path())
        if learner.place == "actor":
            actor = ray.remote(_LearnerActor)
            self._learner = actor.options(num_cpus=learner.cpus, num_gpus=learner.gpus).remote(
                config.to_tree(), remote_rollouts, _search_path()
            )
        else:
            self._local = LearnerRole(config, RayPool) if remote_rollouts else LearnerRole(config)

    def _call(self, method: str, *arguments: Any) -> Any:
        if self._local is not None:
            return getattr(self._local, method)(*arguments)
        return wait([getattr(self._learner, method).remote(*arguments)], ["the learner"], self._deadline_s)[0]

    def counters(self) -> Counters:
        """Return the learner's counters."""
        counters: Counters = self._call("counters")
        return counters

    def updates_per_epoch(self) -> int | None:
        """Return the updates in one pass over the data."""
        updates: int | None = self._call("updates_per_epoch")
        return updates

    def advance(self, schedule: Schedule, pause_s: float = math.inf) -> Advance:
        """Update until something is due. A learner actor answers every few seconds, so that a dead one is noticed."""
        resume_at = time.monotonic() + pause_s
        while True:
            pause = pause_s if self._local else min(_PAUSE_S, max(0.0, resume_at - time.monotonic()))
            advance: Advance = self._call("advance", schedule, pause)
            if advance.due or advance.exhausted or time.monotonic() >= resume_at:
                return advance

    def metrics(self) -> dict[str, float]:
        """Return and clear the training metrics."""
        metrics: dict[str, float] = self._call("metrics")
        return metrics

    def evaluate(self, split: str | None = None, episodes: int | None = None) -> Evaluation:
        """Evaluate the present weights, in the evaluator's actor where there is one."""
        if self._evaluator is None:
            evaluation: Evaluation = self._call("evaluate", split, episodes)
            return evaluation
        number, weights, progress = self._call("policy")
        ref = self._evaluator.evaluate.remote(number, weights, progress, split, episodes)
        result: Evaluation = wait([ref], ["the evaluator"], self._deadline_s)[0]
        return result

    def barrier_and_state(self) -> dict[str, Any]:
        """Return the learner's whole state after a barrier."""
        state: dict[str, Any] = self._call("barrier_and_state")
        return state

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore the learner."""
        self._call("load_state", state)

    def weights_sha256(self) -> str:
        """Return the hash of all trained tensors."""
        return str(self._call("weights_sha256"))

    def parameter_counts(self) -> dict[str, int]:
        """Return the number of trained parameters of each phase."""
        counts: dict[str, int] = self._call("parameter_counts")
        return counts

    def close(self) -> None:
        """End all actors, and Ray if this run started it. Idempotent."""
        if self._local is not None:
            self._local.close()
        for actor in (self._learner, self._evaluator):
            if actor is not None:
                ray.kill(actor)
        self._learner = self._evaluator = None
        if self._started and ray.is_initialized():
            ray.shutdown()
            self._started = False


def make_ray_role(config: RunConfig, plan: Plan | None = None) -> RayRole:
    """Return the roles of a run on Ray."""
    return RayRole(config, plan or make_plan(config))
