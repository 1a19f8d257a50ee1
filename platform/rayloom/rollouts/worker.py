"""The rollout worker: weights, seeds, barriers and time around what a source's own worker produces.

    source --collect(steps, weights, progress)--> worker --Rollout--> source

The source waits, the worker produces; a worker holds no transition between two calls. The same class runs in the
learner's process (sharing its algorithm object) and in a Ray actor (with a copy that `weights` refreshes). Sources with
environments have an `EnvironmentWorker` in it, which steps them and returns true transitions.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from rayloom.config.schema import RunConfig
from rayloom.config.shares import environment_share
from rayloom.contract import Algorithm, Progress, Rollout, SourceWorker, Spec, WorkerContext, gather_parts
from rayloom.devices import choose_device
from rayloom.rollouts.acting import ActingAlgorithm
from rayloom.rollouts.episodes import RunningEpisodes
from rayloom.rollouts.making import check_alike, make_environment
from rayloom.rollouts.masks import check_masks
from rayloom.rollouts.rollout import allocate_chunk, record_step
from rayloom.seeding import derive_seed, seed_environments, seed_process, torch_generator
from rayloom.timeline import OTHER, Timeline


def _life(restarts: int) -> tuple[str | int, ...]:
    """Return where in the seed tree a worker differs from the ones that it replaces."""
    return ("restart", restarts) if restarts else ()


def restart_seed(seed: int, index: int, barriers: int, restarts: int) -> int:
    """Return the seed of the environments of rollout worker `index` after barrier number `barriers`."""
    return derive_seed(seed, "rollout", index, "barrier", barriers, *_life(restarts))


class RolloutWorker:
    """Runs the worker of the run's source. Used by one thread."""

    def __init__(
        self,
        config: RunConfig,
        index: int,
        algorithm: Algorithm | None = None,
        barriers: int = 0,
        restarts: int = 0,
        spec: Spec | None = None,
    ) -> None:
        """Make the source's worker; without `algorithm`, make a copy of the run's algorithm for `spec` (in an actor).

        A worker that replaces a dead one is told the number of `barriers` so far and of its `restarts`.
        """
        source, settings = config.source_class(), config.workers()
        assert source.worker is not None and settings is not None
        number, first = environment_share(config, index)
        self._timeline = Timeline()
        self._seed = config.seed
        self._index = index
        if algorithm is None:
            torch.set_num_threads(1)
            seed_process(config.seed, "rollout", index)
            algorithm = config.algorithm_class()(config.algorithm, source.describe(settings) if spec is None else spec)
            algorithm.to(choose_device(config, "rollout")).eval()
        algorithm.environments = range(first, first + number)
        algorithm.num_environments = settings.num_envs
        self._algorithm = algorithm
        self._version = -1
        self._restarts = restarts
        self._generator = torch_generator(config.seed, "rollout", index, "explore", *_life(restarts))
        seed_environments(config.seed, "rollout", index, "construction")
        self._worker = source.worker(
            WorkerContext(
                config=settings,
                algorithm=algorithm,
                index=index,
                num_envs=number,
                first=first,
                generator=self._generator,
            )
        )
        self.restart(barriers)
        self._timeline.begin("wait")
        self._timeline.drain()

    def barrier(self) -> None:
        """Restart the source's worker by the next derived seed; the running episodes are dropped."""
        self.restart(self._barriers + 1)

    def restart(self, barriers: int) -> None:
        """Restart the source's worker by the seed of barrier number `barriers`."""
        before = self._timeline.begin(OTHER)
        self._barriers = barriers
        seed = restart_seed(self._seed, self._index, barriers, self._restarts)
        seed_environments(seed, "global")
        self._worker.restart(seed)
        self._timeline.begin(before)

    def load_weights(self, version: int, weights: Mapping[str, Any], progress: Progress) -> None:
        """Take the policy of `version` (in an actor) and how far the run is."""
        self._timeline.begin("transfer")
        if version != self._version:
            self._algorithm.load_state_dict({name: torch.as_tensor(value) for name, value in weights.items()})
            self._version = version
            self._algorithm.after_publish()
        self._algorithm.progress = progress
        self._timeline.begin("wait")

    def collect(self, num_steps: int, version: int = 0) -> Rollout:
        """Collect `num_steps` steps, say how the time since the last rollout was spent, and begin to wait."""
        self._timeline.begin(OTHER)
        with torch.inference_mode():
            rollout = self._worker.collect(num_steps)
        self._timeline.begin("wait")
        self._timeline.split(OTHER, rollout.seconds)
        return replace(rollout, worker=self._index, version=version, seconds=self._timeline.drain())

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs directly after a barrier."""
        own = self._worker.state_dict()
        state = {"barriers": self._barriers, "restarts": self._restarts, "generator": self._generator.get_state()}
        return {**state, "own": own} if own else state

    @staticmethod
    def fresh_state(seed: int, index: int, barriers: int, restarts: int) -> dict[str, Any]:
        """Return the state of a worker that has only just been made."""
        generator = torch_generator(seed, "rollout", index, "explore", *_life(restarts))
        return {"barriers": barriers, "restarts": restarts, "generator": generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restart as the saved worker's barrier did, and restore the generator and what the source's worker keeps."""
        self._restarts = int(state["restarts"])
        self.restart(int(state["barriers"]))
        self._generator.set_state(state["generator"])
        if "own" in state:
            self._worker.load_state_dict(state["own"])

    def close(self) -> None:
        """Close the environments."""
        self._worker.close()


class EnvironmentWorker(SourceWorker):
    """Steps its share of the environments."""

    def __init__(self, context: WorkerContext) -> None:
        """Make the environments."""
        super().__init__(context)
        self._step_s = self._inference_s = 0.0
        self._acting, self._generator = ActingAlgorithm(context.algorithm), context.generator
        self._environment = make_environment(
            context.config, context.num_envs, first_index=context.first, worker=context.index
        )
        check_alike(self._environment, context.algorithm.spec, "source.env", self._environment.describe())

    def restart(self, seed: int) -> None:
        """Restart every environment; the running episodes are dropped."""
        self._observation = self._environment.reset(seed)
        number = self._environment.num_envs
        self._acting.begin(number)
        self._first = np.ones(number, dtype=np.bool_)
        self._episodes = RunningEpisodes(number)

    def collect(self, num_steps: int) -> Rollout:
        """Step every environment `num_steps` times."""
        storage: dict[str, np.ndarray] = {}
        with self._acting.in_evaluation_mode():
            for t in range(num_steps):
                self._step(t, num_steps, storage)
        self._environment.check(gather_parts(storage, "next_observation"), storage["reward"])
        check_masks(self._environment, gather_parts(storage, "observation"), storage["valid"])
        episodes = self._episodes.finish(storage)
        env_steps = int(np.count_nonzero(storage["valid"]))
        seconds = {"step": self._step_s, "inference": self._inference_s}
        self._step_s = self._inference_s = 0.0
        return Rollout(storage, episodes, env_steps, seconds=seconds)

    def _step(self, t: int, num_steps: int, storage: dict[str, np.ndarray]) -> None:
        started, observation = time.perf_counter(), self._observation
        chosen, extras = self._acting.choose(observation, self._generator)
        chose = time.perf_counter()
        step = self._environment.step(chosen)
        stepped = time.perf_counter()
        self._inference_s += chose - started
        self._step_s += stepped - chose
        if not storage:
            allocate_chunk(storage, num_steps, observation, chosen, extras)
        record_step(storage, t, observation, self._first, chosen, extras, step)
        self._observation, self._first = step.observation, step.begins
        self._acting.observe_ends(step.begins)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: right after a barrier no episode is running."""
        assert not self._episodes.lengths.any(), "a rollout worker is saved only right after a barrier"
        return {}

    def close(self) -> None:
        """Close the environments."""
        self._environment.close()
