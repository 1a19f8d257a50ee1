"""The rollout worker: steps environments with the current policy and returns true transitions.

    source --collect(steps, weights, progress)--> worker --Rollout--> source

The source waits, the worker produces; a worker holds no transition between two calls. The same class runs in the
learner's process (sharing its algorithm object) and in a Ray actor (with a copy that `weights` refreshes).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rayloom.config import DatasetSourceConfig, EnvironmentSourceConfig, ReplaySourceConfig, RunConfig
from rayloom.contract import Algorithm, Progress, UserError
from rayloom.devices import choose_device
from rayloom.environment import Environment, Step, make_environment, spec_of
from rayloom.seeding import derive_seed, seed_process, torch_generator
from rayloom.timeline import OTHER, Timeline


@dataclass(frozen=True)
class Rollout:
    """What one call of `collect` returns."""

    arrays: dict[str, np.ndarray]
    """Time-major arrays [T, N, ...]: the keys of a Trajectory."""
    episodes: list[tuple[float, int]]
    """Undiscounted return and length (steps) of every episode that ended, in order."""
    env_steps: int
    """Valid transitions among the T * N."""
    version: int = 0
    """The policy's version: what the source published last before the rollout was ordered."""
    worker: int = 0
    """The rollout worker's index over the whole run."""
    restarted: bool = False
    """Whether it does not continue the episodes of the worker's rollout before: the worker was replaced or, in a
    stream, restarted at a barrier."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """How the worker spent its time since the rollout before, by activity (seconds); see `rayloom.timeline`. In the
    learner's own process the worker's `wait` is the learner's work."""
    memory_mib: float = 0.0
    """Size of the worker's process (MiB); 0 in the learner's own process."""


def environment_share(config: RunConfig, index: int) -> tuple[int, int]:
    """Return (number, first index) of the environments of rollout worker `index`."""
    source: Any = config.source
    learners = config.learner.count
    workers = source.rollout_workers or learners
    if workers % learners:
        raise UserError(
            f"source.rollout_workers: {workers} rollout workers cannot be shared evenly by {learners} learners; make "
            f"it a multiple of learner.count, or 0"
        )
    if source.num_envs % workers:
        raise UserError(
            f"source.num_envs: {source.num_envs} environments cannot be shared evenly by {workers} rollout workers; "
            f"make it a multiple of {'source.rollout_workers' if source.rollout_workers else 'learner.count'}"
        )
    share = source.num_envs // workers
    return share, share * index


def learner_share(config: RunConfig) -> tuple[EnvironmentSourceConfig, int]:
    """Return one learner's share of a source with environments, and of the batch.

    UserError where they cannot be shared evenly.
    """
    source, count = config.source, config.learner.count
    assert not isinstance(source, DatasetSourceConfig)
    if config.learner.batch_size % count:
        raise UserError(f"learner.batch_size: {config.learner.batch_size} is no multiple of the {count} learners")
    environment_share(config, 0)
    share: EnvironmentSourceConfig = replace(
        source, num_envs=source.num_envs // count, rollout_workers=source.rollout_workers // count
    )
    if isinstance(share, ReplaySourceConfig):
        share = replace(
            share,
            capacity=max(1, share.capacity // count),
            learning_starts=-(-share.learning_starts // count),
            steps_per_update=share.steps_per_update / count,
        )
    return share, config.learner.batch_size // count


def _life(restarts: int) -> tuple[str | int, ...]:
    """Return where in the seed tree a worker differs from the ones that it replaces."""
    return ("restart", restarts) if restarts else ()


def restart_seed(seed: int, index: int, barriers: int, restarts: int) -> int:
    """Return the seed of the environments of rollout worker `index` after barrier number `barriers`."""
    return derive_seed(seed, "rollout", index, "barrier", barriers, *_life(restarts))


class RolloutWorker:
    """Steps its share of the environments. Used by one thread."""

    def __init__(
        self, config: RunConfig, index: int, algorithm: Algorithm | None = None, barriers: int = 0, restarts: int = 0
    ) -> None:
        """Make the environments; without `algorithm`, make a copy of the run's algorithm (in an actor).

        A worker that replaces a dead one is told the number of `barriers` so far and of its `restarts`.
        """
        number, first = environment_share(config, index)
        self._timeline = Timeline()
        self._step_s = self._inference_s = 0.0
        self._seed = config.seed
        self._index = index
        self._environment = make_environment(config.source, number, first_index=first, worker=index)  # type: ignore[arg-type]
        if algorithm is None:
            torch.set_num_threads(1)
            seed_process(config.seed, "rollout", index)
            algorithm = config.algorithm_class()(config.algorithm, spec_of(self._environment))
            algorithm.to(choose_device(config, "rollout")).eval()
        algorithm.environments = range(first, first + number)
        algorithm.num_environments = config.source.num_envs  # type: ignore[union-attr]
        self._algorithm = algorithm
        self._version = -1
        self._restarts = restarts
        self._generator = torch_generator(config.seed, "rollout", index, "explore", *_life(restarts))
        self.restart(barriers)
        self._timeline.begin("wait")
        self._timeline.drain()

    @property
    def environment(self) -> Environment:
        """The environments."""
        return self._environment

    def barrier(self) -> None:
        """Restart every environment by the next derived seed; the running episodes are dropped."""
        self.restart(self._barriers + 1)

    def restart(self, barriers: int) -> None:
        """Restart every environment by the seed of barrier number `barriers`."""
        before = self._timeline.begin(OTHER)
        self._barriers = barriers
        self._observation = self._environment.reset(restart_seed(self._seed, self._index, barriers, self._restarts))
        number = self._environment.num_envs
        self._state = self._algorithm.initial_state(number)
        self._episodes = RunningEpisodes(number)
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

    def collect(self, num_steps: int) -> Rollout:
        """Step every environment `num_steps` times."""
        self._timeline.begin(OTHER)
        storage: dict[str, np.ndarray] = {}
        with torch.inference_mode():
            for t in range(num_steps):
                self._step(t, num_steps, storage)
        self._environment.check(storage["next_observation"], storage["reward"])
        episodes = self._episodes.finish(storage)
        env_steps = int(np.count_nonzero(storage["valid"]))
        return Rollout(storage, episodes, env_steps, worker=self._index, seconds=self._spent())

    def _spent(self) -> dict[str, float]:
        """Return how the time since the last rollout was spent, and begin to wait for the next order."""
        self._timeline.begin("wait")
        self._timeline.split(OTHER, {"step": self._step_s, "inference": self._inference_s})
        self._step_s = self._inference_s = 0.0
        return self._timeline.drain()

    def _step(self, t: int, num_steps: int, storage: dict[str, np.ndarray]) -> None:
        started, observation = time.perf_counter(), self._observation
        action, self._state, extras = self._algorithm.act(torch.from_numpy(observation), self._state, self._generator)
        chosen = action.numpy()
        chose = time.perf_counter()
        step = self._environment.step(chosen)
        stepped = time.perf_counter()
        self._inference_s += chose - started
        self._step_s += stepped - chose
        if not storage:
            allocate_chunk(storage, num_steps, observation, chosen, extras)
        record_step(storage, t, observation, chosen, extras, step)
        self._observation = step.observation

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs directly after a barrier."""
        assert not self._episodes.lengths.any(), "a rollout worker is saved only right after a barrier"
        return {"barriers": self._barriers, "restarts": self._restarts, "generator": self._generator.get_state()}

    @staticmethod
    def fresh_state(seed: int, index: int, barriers: int, restarts: int) -> dict[str, Any]:
        """Return the state of a worker that has only just been made."""
        generator = torch_generator(seed, "rollout", index, "explore", *_life(restarts))
        return {"barriers": barriers, "restarts": restarts, "generator": generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restart the environments as the saved worker's barrier did, and restore the generator."""
        self._restarts = int(state["restarts"])
        self.restart(int(state["barriers"]))
        self._generator.set_state(state["generator"])

    def close(self) -> None:
        """Close the environments."""
        self._environment.close()


class RunningEpisodes:
    """Returns and lengths of the episodes that have begun and not ended."""

    def __init__(self, num_envs: int) -> None:
        self._returns = np.zeros(num_envs, dtype=np.float64)
        self.lengths = np.zeros(num_envs, dtype=np.int64)

    def finish(self, storage: Mapping[str, np.ndarray], cut: Sequence[tuple[int, int]] = ()) -> list[tuple[float, int]]:
        """Add a chunk [T, N] and return the episodes that ended in it as (return, length), in order of time.

        `cut` lists (step, environment) at which an episode was lost: what it had collected until then is forgotten.
        """
        reward, valid = storage["reward"], storage["valid"]
        done = (storage["terminated"] | storage["truncated"]) & valid
        returns = self._returns + np.cumsum(reward * valid, axis=0, dtype=np.float64)
        lengths = self.lengths + np.cumsum(valid, axis=0)
        lost = set(cut)
        for t, n in lost:
            done[t, n] = True
        episodes: list[tuple[float, int]] = []
        if done.any():
            for t, n in zip(*np.nonzero(done), strict=True):
                if (int(t), int(n)) not in lost:
                    episodes.append((float(returns[t, n]), int(lengths[t, n])))
                returns[t:, n] -= returns[t, n]
                lengths[t:, n] -= lengths[t, n]
        self._returns, self.lengths = returns[-1], lengths[-1]
        return episodes


def record_step(
    storage: Mapping[str, np.ndarray],
    t: int,
    observation: np.ndarray,
    action: np.ndarray,
    extras: Mapping[str, Tensor],
    step: Step,
) -> None:
    """Write what happened in step `t` into the chunk."""
    storage["observation"][t] = observation
    storage["action"][t] = action
    storage["reward"][t] = step.reward
    storage["next_observation"][t] = step.next_observation
    storage["terminated"][t] = step.terminated
    storage["truncated"][t] = step.truncated
    storage["valid"][t] = step.valid
    for name, value in extras.items():
        storage[name][t] = value.numpy()


def allocate_chunk(
    storage: dict[str, np.ndarray],
    num_steps: int,
    observation: np.ndarray,
    action: np.ndarray,
    extras: Mapping[str, Tensor],
) -> None:
    number = observation.shape[0]
    storage["observation"] = np.empty((num_steps, *observation.shape), observation.dtype)
    storage["next_observation"] = np.empty((num_steps, *observation.shape), observation.dtype)
    storage["action"] = np.empty((num_steps, *action.shape), action.dtype)
    storage["reward"] = np.empty((num_steps, number), np.float32)
    for name in ("terminated", "truncated", "valid"):
        storage[name] = np.empty((num_steps, number), np.bool_)
    for name, value in extras.items():
        array = value.numpy()
        storage[name] = np.empty((num_steps, *array.shape), array.dtype)


class EpisodeStatistics:
    """Sums over the episodes since the last report."""

    def __init__(self) -> None:
        self._returns: list[float] = []
        self._lengths: list[int] = []
        self.episodes = 0

    def add(self, episodes: list[tuple[float, int]]) -> None:
        """Count episodes given as (return, length)."""
        self.episodes += len(episodes)
        for total, length in episodes:
            self._returns.append(total)
            self._lengths.append(length)

    def drain(self) -> dict[str, float]:
        """Return means since the last call; nothing when no episode ended."""
        if not self._returns:
            return {}
        means = {
            "return_mean": float(np.mean(self._returns)),
            "return_max": float(np.max(self._returns)),
            "episode_length_mean": float(np.mean(self._lengths)),
        }
        self._returns, self._lengths = [], []
        return means

    def state_dict(self) -> dict[str, Any]:
        """Return the unreported episodes and their total number."""
        return {"returns": list(self._returns), "lengths": list(self._lengths), "episodes": self.episodes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._returns = [float(value) for value in state["returns"]]
        self._lengths = [int(value) for value in state["lengths"]]
        self.episodes = int(state["episodes"])


def concatenate_rollouts(rollouts: list[Rollout]) -> dict[str, np.ndarray]:
    """Join the rollouts of all workers along their environments: arrays [T, N, ...] with N over all workers."""
    if len(rollouts) == 1:
        return rollouts[0].arrays
    return {name: np.concatenate([rollout.arrays[name] for rollout in rollouts], axis=1) for name in rollouts[0].arrays}
