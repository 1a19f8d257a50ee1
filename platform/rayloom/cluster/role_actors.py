"""Learners and the evaluator with processes of their own."""

from __future__ import annotations

from typing import Any

import ray
import torch

from rayloom.cluster.nodes.connection import extend_search_path
from rayloom.cluster.nodes.gpu_assignment import confirm_assignment
from rayloom.cluster.nodes.processes import own_process
from rayloom.cluster.pools.central_pool import CentralPool
from rayloom.cluster.pools.central_stream import CentralStream
from rayloom.cluster.pools.rollout_pool import RayPool
from rayloom.cluster.pools.supervisor import ActorOptions, start_s
from rayloom.cluster.process_group import ProcessGroup
from rayloom.config.load import from_tree
from rayloom.config.schema import RunConfig
from rayloom.contract import Algorithm, Findings, GlobalNoise
from rayloom.devices import choose_device
from rayloom.errors import Process
from rayloom.learner.state import adopt
from rayloom.rollouts.pool import LocalPool, OwnedPool
from rayloom.runs.evaluator import Evaluator
from rayloom.runs.learner_role import LearnerRole, Policy, PoolFactory, load_run_dataset, source_spec

_RENDEZVOUS_S = 60.0


def pool_factory(remote: bool, placement: ActorOptions | None) -> PoolFactory:
    """Return what makes a learner's rollout workers: as actors, or in its own process."""
    if not remote:
        return LocalPool

    def make(config: RunConfig, algorithm: Algorithm, rank: int) -> OwnedPool:
        source: Any = config.source
        pool: type[RayPool | CentralPool | CentralStream] = RayPool
        if getattr(source, "inference", "worker") == "central":
            pool = CentralStream if getattr(source, "in_flight", 0) else CentralPool
        return pool(config, algorithm, rank, placement)

    return make


def learner_deadline_s(config: RunConfig) -> float:
    """Return the longest wait for a learner, which may itself wait for a hung rollout worker and for its successor."""
    workers = config.workers()
    waits = workers is not None and workers.rollout_workers > 0
    return config.cluster.deadline_s + (start_s(config) if waits else 0.0)


class LearnerActor(LearnerRole):
    """One learner's role with a process of its own."""

    def __init__(
        self,
        tree: dict[str, Any],
        remote_rollouts: bool,
        paths: list[str],
        rank: int,
        placement: ActorOptions | None,
        begins: bool = True,
    ) -> None:
        extend_search_path(paths)
        config = from_tree(tree)
        count, device = config.learner.count, choose_device(config)
        confirm_assignment(f"learner {rank}", config.learner.gpus, device)
        self._members = ProcessGroup(rank, count, device, learner_deadline_s(config)) if count > 1 else None
        self._rank = rank
        super().__init__(config, pool_factory(remote_rollouts, placement), self._members, begins)

    def process(self) -> Process:
        """Return this process."""
        return own_process("learner", self._rank)

    def rendezvous(self) -> tuple[str, int]:
        """Return the address and port at which the learners meet (rank 0)."""
        assert self._members is not None
        address = ray.util.get_node_ip_address()
        return address, self._members.open_rendezvous(address)

    def connect(self, address: str, port: int) -> None:
        """Meet the other learners."""
        assert self._members is not None
        self._members.connect(address, port, _RENDEZVOUS_S, ray.util.get_node_ip_address())


class EvaluatorActor:
    """An evaluator with a process and a copy of the algorithm of its own."""

    def __init__(self, tree: dict[str, Any], paths: list[str]) -> None:
        extend_search_path(paths)
        config = from_tree(tree)
        self._threads = config.learner.threads  # as in the driver, whose numbers this one's must equal
        torch.set_num_threads(self._threads)
        dataset = load_run_dataset(config)
        self._algorithm = config.algorithm_class()(config.algorithm, source_spec(config, dataset))
        device = choose_device(config, "evaluator")
        confirm_assignment("the evaluator", config.cluster.evaluator_gpus, device)
        self._algorithm.to(device)
        self._algorithm.noise = GlobalNoise(device)
        self._evaluator = Evaluator(config, self._algorithm, dataset)

    def process(self) -> Process:
        """Return this process."""
        return own_process("evaluator", 0)

    def units(self) -> int:
        """Return the units of work that the newest evaluation has done; answers while it is being done."""
        return self._evaluator.units

    def evaluate(self, policy: Policy) -> Findings:
        """Judge these weights."""
        torch.set_num_threads(self._threads)  # of this thread, which is not the one that made us
        adopt(self._algorithm, policy.weights)
        self._algorithm.progress = policy.progress
        return self._evaluator.evaluate(policy.number)
