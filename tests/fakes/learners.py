"""All learners of a run in this process, each in a thread, with all their rollout workers."""

from __future__ import annotations

import copy
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch

from rayloom.config.schema import RunConfig
from rayloom.contract import Algorithm, Rollout
from rayloom.learner.state import own_buffers
from rayloom.rollouts.pool import LocalPool
from rayloom.rollouts.worker import RolloutWorker
from rayloom.runs.learner_role import LearnerRole
from rayloom.runs.schedule import Schedule
from rayloom.testing import small
from rayloom.testing.learners import SimulatedGroup, simulated_group

State = dict[str, Any]


class WorkersAhead(LocalPool):
    """Several rollout workers in this process, `in_flight` rollouts ahead; what is ordered is collected at once."""

    def __init__(self, config: RunConfig, algorithm: Algorithm, rank: int = 0) -> None:
        source: Any = config.source
        share = source.rollout_workers // config.learner.count
        self._algorithm, self._version, self._turn = algorithm, -1, 0
        self._workers = [RolloutWorker(config, rank * share + index, algorithm) for index in range(share)]
        self._ahead = getattr(source, "in_flight", 0)
        self._queues: list[deque[Rollout]] = [deque() for _ in self._workers]
        self._restarted: set[int] = set()

    def collect(self, num_steps: int) -> list[Rollout]:
        return [replace(worker.collect(num_steps), version=self._version) for worker in self._workers]

    def take(self, num_steps: int) -> Rollout:
        turn = self._turn
        for worker, queue in zip(self._workers, self._queues, strict=True):
            while len(queue) < self._ahead + (worker is self._workers[turn]):
                self._collect(worker, num_steps)
        self._turn = (turn + 1) % len(self._workers)
        return self._queues[turn].popleft()

    def order(self, num_steps: int, worker: int) -> None:
        for own in self._workers:
            if own._index == worker and len(self._queues[self._workers.index(own)]) < self._ahead:
                self._collect(own, num_steps)

    def _collect(self, worker: RolloutWorker, num_steps: int) -> None:
        place = self._workers.index(worker)
        restarted = place in self._restarted
        self._restarted.discard(place)
        rollout = replace(worker.collect(num_steps), version=self._version, restarted=restarted)
        self._queues[place].append(rollout)

    def drain(self) -> list[Rollout]:
        drained = []
        while any(self._queues):
            if self._queues[self._turn]:
                drained.append(self._queues[self._turn].popleft())
            self._turn = (self._turn + 1) % len(self._workers)
        return drained

    def barrier(self) -> None:
        for worker in self._workers:
            worker.barrier()
        self._restarted = set(range(len(self._workers))) if self._ahead else set()

    def state_dict(self) -> State:
        return {"workers": [worker.state_dict() for worker in self._workers], "turn": self._turn}

    def load_state_dict(self, state: Any) -> None:
        self._turn = state["turn"]
        for worker, saved in zip(self._workers, state["workers"], strict=True):
            worker.load_state_dict(saved)
        self._restarted = set(range(len(self._workers))) if self._ahead else set()

    def close(self) -> None:
        for worker in self._workers:
            worker.close()


class Learners:
    """All learners of a run, in this process."""

    def __init__(self, config: RunConfig, states: Sequence[State] | None = None) -> None:
        self.config, count = config, config.learner.count
        pool: Any = WorkersAhead if getattr(config.source, "rollout_workers", 0) else LocalPool
        groups: Sequence[SimulatedGroup | None] = simulated_group(count) if count > 1 else [None]
        self.roles = [LearnerRole(config, pool, group) for group in groups]
        for role, state in zip(self.roles, states or [], strict=states is not None):
            role.load_state(copy.deepcopy(state))  # as it would come out of a file

    def each(self, function: Callable[[LearnerRole], Any]) -> list[Any]:
        """Call the function for every role at once."""
        with ThreadPoolExecutor(len(self.roles)) as threads:
            return list(threads.map(function, self.roles))

    def train(self, updates: int) -> None:
        """Train until so many updates are done."""
        schedule = Schedule({}, {"updates": updates})
        advances = self.each(lambda role: role.advance(schedule))
        assert all(advance == advances[0] for advance in advances)

    def counters(self) -> Counter[str]:
        """Return the sums of what each learner's source has counted."""
        own = [role.source.counters() for role in self.roles]
        if not self.roles[0].source.counts_own:
            assert all(counters == own[0] for counters in own)
            return Counter(own[0])
        return sum((Counter(counters) for counters in own), Counter())

    def close(self) -> None:
        for role in self.roles:
            role.close()


def assert_agreement(learners: Learners) -> None:
    """Every parameter and buffer is the same to the bit, but for what is each learner's own."""
    first, second = (role.algorithm.state_dict() for role in learners.roles)
    own = own_buffers(learners.roles[0].algorithm)
    for name, value in first.items():
        assert name in own or torch.equal(value, second[name]), name


def assert_two_go_on(config: RunConfig, updates: int = 8) -> None:
    """Two learners of a small form of the run agree, and go on exactly from what both saved half way."""
    config = small(config)
    config = replace(config, learner=replace(config.learner, count=2))
    whole = Learners(config)
    whole.train(updates // 2)
    assert_agreement(whole)
    states = copy.deepcopy(whole.each(LearnerRole.barrier_and_state))  # the run goes on, and changes them
    whole.train(updates)
    assert_agreement(whole)
    again = Learners(config, states)
    again.train(updates)
    assert [role.weights_sha256() for role in again.roles] == [role.weights_sha256() for role in whole.roles]
    assert again.counters() == whole.counters()
    whole.close()
    again.close()
