"""Rollout workers that only step environments: the learner's process chooses the actions of all, on its own device.

    actors --observations--> pool: one batch for half of the workers --actions--> actors

One policy for all saves copies of a large network, and puts images through it in large batches on the learner's GPU
(Espeholt et al. 2020, "SEED RL", arXiv 1910.06591). The workers form two halves that alternate: while one half steps,
the actions of the other are chosen. Everything is in a fixed order, so that a seeded run repeats itself.

A worker that is lost in the middle of a rollout is replaced there: the step that it was in never happened (`valid` is
False), the one before it ends its episode as a truncation, and its environments start new episodes.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import RayError

from rayloom.cluster.nodes.connection import extend_search_path
from rayloom.cluster.nodes.processes import own_process
from rayloom.cluster.pools.supervisor import ActorOptions, ActorPool, Supervisor, Worker
from rayloom.config.load import from_tree
from rayloom.config.schema import RunConfig
from rayloom.config.shares import environment_share
from rayloom.contract import Algorithm, Rollout, Spec
from rayloom.errors import Process
from rayloom.rollouts.acting import ActingAlgorithm
from rayloom.rollouts.environment import Step
from rayloom.rollouts.episodes import RunningEpisodes
from rayloom.rollouts.making import check_alike, make_environment
from rayloom.rollouts.rollout import allocate_chunk, record_step
from rayloom.rollouts.spaces import Values, assign_rows, copy_values, take_rows, zeros_like_rows
from rayloom.rollouts.worker import RolloutWorker, restart_seed
from rayloom.seeding import torch_generator

_HALVES = 2


class EnvironmentActor:
    """A rollout worker's share of the environments, with a process of its own and without a policy."""

    def __init__(
        self, tree: dict[str, Any], index: int, paths: list[str], barriers: int, restarts: int, spec: Spec
    ) -> None:
        extend_search_path(paths)
        config = from_tree(tree)
        torch.set_num_threads(1)
        number, first = environment_share(config, index)
        self._seed, self._index, self._restarts = config.seed, index, restarts
        self._environment = make_environment(
            config.source,  # type: ignore[arg-type]
            number,
            first_index=first,
            worker=index,
            check_every_step=True,
        )
        self._spec = spec
        self.restart(barriers)

    def ready(self) -> Process:
        """Return this process once the environments stand; UserError where they are not those of the run."""
        check_alike(self._environment, self._spec, "source.env", self._environment.describe())
        return own_process("rollout", self._index)

    def observe(self) -> Values:
        """Return what to act on next [N, ...]."""
        return self._observation

    def step(self, action: Values) -> tuple[Step, float]:
        """Step all environments; return what happened and the seconds that it took."""
        started = time.perf_counter()
        step = self._environment.step(action)
        self._observation = step.observation
        return step, time.perf_counter() - started

    def restart(self, barriers: int) -> None:
        """Restart the environments by the seeds of this barrier."""
        self._barriers = barriers
        self._observation = self._environment.reset(restart_seed(self._seed, self._index, barriers, self._restarts))

    def state_dict(self) -> dict[str, Any]:
        """Return the state in the form of a rollout worker's."""
        return RolloutWorker.fresh_state(self._seed, self._index, self._barriers, self._restarts)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the environments."""
        self._restarts = int(state["restarts"])
        self.restart(int(state["barriers"]))


@dataclass
class _Half:
    """Some of the workers, whose environments are one batch."""

    workers: list[Worker]
    columns: list[slice]
    """Of each worker, in the batch."""
    environments: range
    """Which of the run's environments these are."""
    generator: torch.Generator
    acting: ActingAlgorithm
    observation: Values | None = None
    first: np.ndarray | None = None
    """Which of the observations begin an episode."""
    episodes: RunningEpisodes | None = None
    chosen: tuple[Values, Mapping[str, Any]] | None = None
    """Actions that are on their way, with what `act` returned besides."""
    restarted: bool = False
    """Whether the environments were restarted since the last rollout."""
    storage: dict[str, np.ndarray] = field(default_factory=dict)
    cuts: list[tuple[int, int]] = field(default_factory=list)
    """(step, environment) at which episodes were lost."""


class CentralPool(ActorPool):
    """Environments in actors, and one policy for all of them in this process. Used by one thread."""

    def __init__(
        self, config: RunConfig, algorithm: Algorithm, rank: int = 0, placement: ActorOptions | None = None
    ) -> None:
        """Make the actors of learner `rank`, and wait until they stand."""
        self._config = config
        self._algorithm = algorithm
        self._version = -1
        super().__init__(Supervisor(config, rank, placement, EnvironmentActor, (algorithm.spec,)))
        workers = self._supervisor.workers
        source: Any = config.source
        share, first = environment_share(config, workers[0].index)
        algorithm.num_environments = source.num_envs
        # Of one environment: shape and type.
        self._example = take_rows(self._supervisor.call("observe", lambda worker: ())[0], 0)
        number = min(_HALVES, len(workers))
        bounds = [len(workers) * half // number for half in range(number + 1)]
        self._halves = [
            _Half(
                workers[begin:end],
                [slice(place * share, (place + 1) * share) for place in range(end - begin)],
                range(first + begin * share, first + end * share),
                torch_generator(config.seed, "central", rank, half),
                ActingAlgorithm(algorithm),
            )
            for half, (begin, end) in enumerate(itertools.pairwise(bounds))
        ]

    def publish(self, version: int) -> None:
        """Refresh the acting caches: the weights are the learner's own."""
        if version != self._version:
            self._version = version
            with torch.no_grad():
                self._algorithm.after_publish()

    # --- rollouts --------------------------------------------------------------------------------------------------

    def collect(self, num_steps: int) -> list[Rollout]:
        """Step all environments `num_steps` times; when no worker is left, once more with one that comes back."""
        while True:
            rollouts = self._collect(num_steps)
            if any(rollout.env_steps for rollout in rollouts):
                return rollouts
            for half in self._halves:
                half.restarted = True  # and the rollouts that would have told it are dropped

    def _collect(self, num_steps: int) -> list[Rollout]:
        started = time.perf_counter()
        away = [worker for worker in self._supervisor.workers if worker.away]
        present = self._supervisor.present()
        back = [worker for worker in away if not worker.away]
        for half in self._halves:
            half.storage, half.cuts = {}, []
            if half.observation is None or any(worker in back for worker in half.workers):
                self._observe(half)
            self._choose(half)
        spent = dict.fromkeys((worker.index for worker in self._supervisor.workers), 0.0)
        for t in range(num_steps):
            for half in self._halves:
                self._record(half, t, num_steps, self._receive(half), spent)
                if t + 1 < num_steps:
                    self._choose(half)
        elapsed = time.perf_counter() - started
        return [rollout for half in self._halves for rollout in self._finish(half, present, spent, elapsed)]

    def _observe(self, half: _Half) -> None:
        """Ask the workers what to act on."""
        for worker in half.workers:
            if not worker.away:
                self._order(worker, "observe")
        answers = self._receive(half)
        number = half.columns[-1].stop
        half.observation = zeros_like_rows(self._example, number)
        for columns, answer in zip(half.columns, answers, strict=True):
            if answer is not None and not isinstance(answer, tuple):
                assign_rows(half.observation, columns, answer)
        if half.episodes is None:
            half.acting.begin(number)
            half.first = np.ones(number, np.bool_)
            half.episodes = RunningEpisodes(number)

    def _choose(self, half: _Half) -> None:
        """Choose the actions of one half and send them."""
        self._algorithm.environments = half.environments
        assert half.observation is not None
        with torch.inference_mode(), half.acting.in_evaluation_mode():
            half.chosen = half.acting.choose(half.observation, half.generator)
        chosen = half.chosen[0]
        for worker, columns in zip(half.workers, half.columns, strict=True):
            if not worker.away:
                self._order(worker, "step", take_rows(chosen, columns))

    def _order(self, worker: Worker, method: str, *arguments: Any) -> None:
        worker.since = time.monotonic()
        worker.orders.append(getattr(worker.actor, method).remote(*arguments))

    def _receive(self, half: _Half) -> list[Any]:
        """Return each worker's answer: (Step, seconds), or the first observation of its successor, or None: away."""
        return [self._answer(worker) for worker in half.workers]

    def _answer(self, worker: Worker) -> Any:
        deadline_s = self._config.cluster.deadline_s
        while worker.orders and not worker.away:
            patience = self._supervisor.late_at(worker) - time.monotonic()
            ready, _ = ray.wait([worker.orders[0]], timeout=max(0.0, patience))
            if ready:
                try:
                    answer = ray.get(worker.orders.popleft())
                except RayError as error:
                    self._supervisor.fail(worker, error)
                else:
                    worker.failures = 0 if isinstance(answer, tuple) else worker.failures
                    return answer
            elif time.monotonic() < self._supervisor.late_at(worker):
                continue  # it has only just started
            elif self._supervisor.is_up(worker):
                self._supervisor.replace(worker, f"it did not answer within {deadline_s:g} s (cluster.deadline_s)")
            else:
                self._supervisor.leave(worker)
                return None
            self._order(worker, "observe")
        return None

    def _record(self, half: _Half, t: int, num_steps: int, answers: list[Any], spent: dict[int, float]) -> None:
        """Write step `t` of one half, and what to act on next."""
        assert half.observation is not None and half.chosen is not None and half.first is not None
        action, extras = half.chosen
        number = len(half.first)
        step = Step(
            copy_values(half.observation),
            np.zeros(number, np.float32),
            np.zeros(number, np.bool_),
            np.zeros(number, np.bool_),
            np.zeros(number, np.bool_),
            copy_values(half.observation),
            np.ones(number, np.bool_),  # unless a worker tells otherwise
        )
        for worker, columns, answer in zip(half.workers, half.columns, answers, strict=True):
            if isinstance(answer, tuple):
                taken, seconds = answer
                spent[worker.index] += seconds
                for ours, theirs in zip(step, taken, strict=True):
                    assign_rows(ours, columns, theirs)
            else:
                half.cuts += [(t, column) for column in range(columns.start, columns.stop)]
                if answer is not None:
                    assign_rows(step.observation, columns, answer)
        if not half.storage:
            allocate_chunk(half.storage, num_steps, half.observation, action, extras)
        record_step(half.storage, t, half.observation, half.first, action, extras, step)
        half.observation, half.first = step.observation, step.begins
        with torch.inference_mode():
            half.acting.observe_ends(step.begins)

    def _finish(
        self, half: _Half, present: Sequence[Worker], spent: Mapping[int, float], elapsed: float
    ) -> list[Rollout]:
        """Return one half's rollouts, worker by worker."""
        assert half.episodes is not None
        storage = half.storage
        episodes = half.episodes.finish(storage, half.cuts)
        for t, column in half.cuts:
            if t and storage["valid"][t - 1, column] and not storage["terminated"][t - 1, column]:
                storage["truncated"][t - 1, column] = True
        lost_at_once = {column for t, column in half.cuts if t == 0}
        rollouts = []
        for worker, columns in zip(half.workers, half.columns, strict=True):
            worker.replaced = False
            if worker not in present:
                continue
            arrays = {name: values[:, columns] for name, values in storage.items()}
            seconds = {"step": spent[worker.index], "inference": max(0.0, elapsed - spent[worker.index])}
            rollouts.append(
                Rollout(
                    arrays,
                    episodes,
                    int(np.count_nonzero(arrays["valid"])),
                    self._version,
                    worker.index,
                    half.restarted or columns.start in lost_at_once,
                    seconds,
                )
            )
            episodes = []  # told once, with the first worker's
        half.restarted = False
        return rollouts

    def take(self, num_steps: int) -> Rollout:
        """Never called: a stream of a central policy is a `CentralStream`."""
        raise AssertionError("a central pool has no stream")

    def order(self, num_steps: int, worker: int) -> None:
        """Never called, as `take`."""
        raise AssertionError("a central pool has no stream")

    def ready(self) -> bool:
        """Return False: nothing is made before it is asked for."""
        return False

    def drain(self) -> list[Rollout]:
        """Return nothing: nothing is in flight."""
        return []

    # --- state -----------------------------------------------------------------------------------------------------

    def barrier(self) -> None:
        """Restart every environment."""
        self._supervisor.barriers += 1
        self._supervisor.call("restart", lambda worker: (self._supervisor.barriers,))
        self._forget()

    def _forget(self) -> None:
        for half in self._halves:
            half.observation = half.episodes = None
            half.restarted = True

    def state_dict(self) -> dict[str, Any]:
        """Return the state of every worker, and of the generators that explore for them."""
        return {
            "workers": self._supervisor.states(),
            "turn": 0,
            "explorers": [half.generator.get_state() for half in self._halves],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore every worker; generators of other halves, after a change of their number, begin anew."""
        self._supervisor.load_states(state["workers"])
        explorers = list(state.get("explorers", []))
        if len(explorers) == len(self._halves):
            for half, saved in zip(self._halves, explorers, strict=True):
                half.generator.set_state(saved)
        self._forget()
