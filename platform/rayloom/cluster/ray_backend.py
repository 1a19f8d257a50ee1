"""Roles as Ray actors.

    driver ----owns----> learner actors (or the driver itself) ----owns----> rollout actors
       \\---owns----> evaluator actor

Ownership is the supervision tree: an actor dies with its owner. Weights go through the object store once per version;
trajectories go straight from rollout actors to their learner. Every wait has the deadline `cluster.deadline_s`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray
import torch

from rayloom.cluster.connection import extend_search_path, search_path, start_ray, wait
from rayloom.cluster.pool import LocalPool
from rayloom.cluster.process_group import ProcessGroup
from rayloom.config import RunConfig, from_tree
from rayloom.contract import Algorithm, Progress, UserError
from rayloom.evaluate import Evaluation, Evaluator
from rayloom.plan import Plan, make_plan
from rayloom.roles import Advance, LearnerRole, choose_device, load_run_dataset, source_spec
from rayloom.rollout import Rollout, RolloutWorker, environment_share
from rayloom.schedule import Counters, Schedule

_PAUSE_S = 10.0
_RENDEZVOUS_S = 60.0


class _RolloutActor:
    """A rollout worker with a process of its own."""

    def __init__(self, tree: dict[str, Any], index: int, paths: list[str]) -> None:
        extend_search_path(paths)
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

    def __init__(self, config: RunConfig, algorithm: Algorithm, rank: int = 0) -> None:
        """Make the rollout workers of learner `rank`."""
        source: Any = config.source
        environment_share(config, 0)
        share = source.rollout_workers // config.learner.count
        indices = range(rank * share, (rank + 1) * share)
        self._algorithm = algorithm
        self._deadline_s = config.cluster.deadline_s
        self._version = -1
        self._weights: Any = None
        actor = ray.remote(_RolloutActor)
        self._names = [f"rollout worker {index}" for index in indices]
        self._actors = [
            actor.options(num_cpus=source.worker_cpus, max_restarts=0).remote(config.to_tree(), index, search_path())
            for index in indices
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
        extend_search_path(paths)
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
    """One learner's role with a process of its own."""

    def __init__(self, tree: dict[str, Any], ray_pool: bool, paths: list[str], rank: int) -> None:
        extend_search_path(paths)
        config = from_tree(tree)
        count = config.learner.count
        self._members = (
            ProcessGroup(rank, count, choose_device(config), config.cluster.deadline_s) if count > 1 else None
        )
        super().__init__(config, RayPool if ray_pool else LocalPool, self._members)

    def rendezvous(self) -> tuple[str, int]:
        """Return the address and port at which the learners meet (rank 0)."""
        assert self._members is not None
        address = ray.util.get_node_ip_address()
        return address, self._members.open_rendezvous(address)

    def connect(self, address: str, port: int) -> None:
        """Meet the other learners."""
        assert self._members is not None
        self._members.connect(address, port, _RENDEZVOUS_S)


class RayRole:
    """What the loop drives when any role is an actor."""

    def __init__(self, config: RunConfig, plan: Plan) -> None:
        self._started = start_ray(config, plan)
        self._deadline_s = config.cluster.deadline_s
        self._learners: list[Any] = []
        self._names: list[str] = []
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
            self._evaluator = actor.options(num_cpus=1).remote(config.to_tree(), search_path())
        if learner.place == "driver":
            self._local = LearnerRole(config, RayPool) if remote_rollouts else LearnerRole(config)
            return
        self._names = ["the learner"] if learner.count == 1 else [f"learner {rank}" for rank in range(learner.count)]
        actor = ray.remote(_LearnerActor)
        self._learners = [
            actor.options(num_cpus=learner.cpus, num_gpus=learner.gpus).remote(
                config.to_tree(), remote_rollouts, search_path(), rank
            )
            for rank in range(learner.count)
        ]
        if learner.count > 1:
            self._call_all("counters")  # each is there, or the one that is not is named
            address, port = self._call("rendezvous")
            self._call_all("connect", address, port)

    def _call(self, method: str, *arguments: Any) -> Any:
        """Call one learner: the driver's own, or rank 0."""
        if self._local is not None:
            return getattr(self._local, method)(*arguments)
        ref = getattr(self._learners[0], method).remote(*arguments)
        return wait([ref], self._names[:1], self._deadline_s)[0]

    def _call_all(self, method: str, *arguments: Any) -> list[Any]:
        """Call every learner at once."""
        if self._local is not None:
            return [getattr(self._local, method)(*arguments)]
        refs = [getattr(learner, method).remote(*arguments) for learner in self._learners]
        return wait(refs, self._names, self._deadline_s)

    def counters(self) -> Counters:
        """Return the learners' counters."""
        counters: Counters = self._call("counters")
        return counters

    def updates_per_epoch(self) -> int | None:
        """Return the updates in one pass over the data; None for environments."""
        updates: int | None = self._call("updates_per_epoch")
        return updates

    def advance(self, schedule: Schedule, pause_s: float = math.inf) -> Advance:
        """Update until something is due. Learner actors answer every few seconds, so that a dead one is noticed.

        They pause by their own clocks, one update apart at most: whoever has nothing due is asked again, and a run with
        several learners does not pause half way.
        """
        resume_at = time.monotonic() + pause_s
        if self._local is not None:
            return self._local.advance(schedule, pause_s)
        due: list[Advance | None] = [None] * len(self._learners)
        while True:
            pause = min(_PAUSE_S, max(0.0, resume_at - time.monotonic()))
            asked = [rank for rank, advance in enumerate(due) if advance is None]
            refs = [self._learners[rank].advance.remote(schedule, pause) for rank in asked]
            answers: list[Advance] = wait(refs, [self._names[rank] for rank in asked], self._deadline_s)
            for rank, advance in zip(asked, answers, strict=True):
                if advance.due or advance.exhausted:
                    due[rank] = advance
            if all(advance is not None for advance in due):
                assert all(advance == due[0] for advance in due), due
                return due[0]  # type: ignore[return-value]
            if time.monotonic() >= resume_at and not any(due):
                return answers[0]

    def metrics(self) -> dict[str, float]:
        """Return and clear the training metrics: rank 0's, with the mean over all learners of those in train/."""
        first, *others = self._call_all("metrics")
        for name in [name for name in first if name.startswith("train/")]:
            values = [metrics[name] for metrics in (first, *others) if name in metrics]
            first[name] = sum(values) / len(values)
        metrics: dict[str, float] = first
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
        """Return the learners' whole state after a barrier: what all share once, and what each has of its own."""
        first, *others = self._call_all("barrier_and_state")
        own = [{name: value for name, value in state.items() if name != "learner"} for state in others]
        return {**first, "others": own} if own else first

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore the learners; UserError when there were more or fewer of them."""
        first = {name: value for name, value in state.items() if name != "others"}
        others = [{**first, **own} for own in state.get("others", [])]
        count = max(1, len(self._learners))
        if len(others) + 1 != count:
            raise UserError(
                f"learner.count: the checkpoint is of {len(others) + 1} learners and cannot be continued by {count}"
            )
        if self._local is not None:
            self._local.load_state(first)
            return
        states = [first, *others]
        refs = [actor.load_state.remote(own) for actor, own in zip(self._learners, states, strict=True)]
        wait(refs, self._names, self._deadline_s)

    def weights_sha256(self) -> str:
        """Return the hash of all trained tensors, which must be equal on all learners."""
        hashes = self._call_all("weights_sha256")
        if len(set(hashes)) > 1:
            raise RuntimeError(
                f"the learners' weights have drifted apart: {dict(zip(self._names, hashes, strict=True))}"
            )
        return str(hashes[0])

    def parameter_counts(self) -> dict[str, int]:
        """Return the number of trained parameters of each phase."""
        counts: dict[str, int] = self._call("parameter_counts")
        return counts

    def close(self) -> None:
        """End all actors, and Ray if this run started it. Idempotent."""
        if self._local is not None:
            self._local.close()
        for actor in (*self._learners, self._evaluator):
            if actor is not None:
                ray.kill(actor)
        self._learners, self._evaluator = [], None
        if self._started and ray.is_initialized():
            ray.shutdown()
            self._started = False


def make_ray_role(config: RunConfig, plan: Plan | None = None) -> RayRole:
    """Return the roles of a run on Ray."""
    return RayRole(config, plan or make_plan(config))
