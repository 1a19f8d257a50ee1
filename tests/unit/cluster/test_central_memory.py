"""Central inference without processes: memory and nested observations, also where a worker is lost within a rollout."""

from __future__ import annotations

import itertools
from collections import deque
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.exceptions import RayError

from cases import case
from rayloom.cluster.pools import central_pool
from rayloom.config.load import from_tree
from rayloom.config.schema import RunConfig
from rayloom.rollouts.rollout import Rollout


class _Method:
    """A method of an actor in this process: the answer, or what it raised, is there at once."""

    def __init__(self, method: Any) -> None:
        self._method = method

    def remote(self, *arguments: Any) -> Any:
        try:
            return self._method(*arguments)
        except RayError as error:
            return error


class _Actor:
    def __init__(self, config: RunConfig, index: int, restarts: int, dies_at: int) -> None:
        self._inner: Any = central_pool.EnvironmentActor.__new__(central_pool.EnvironmentActor)
        source: Any = config.source
        share = source.num_envs // source.rollout_workers
        self._inner._seed, self._inner._index, self._inner._restarts = config.seed, index, restarts
        self._inner._environment = central_pool.make_environment(
            source, share, first_index=index * share, worker=index, check_every_step=True
        )
        self._inner.restart(0)
        self._steps, self._dies_at = itertools.count(1), dies_at
        self.observe, self.step = _Method(self._inner.observe), _Method(self._step)

    def _step(self, action: Any) -> Any:
        if next(self._steps) == self._dies_at:
            raise RayError("gone")
        return self._inner.step(action)


class _Supervisor:
    """Replaces what is lost at once."""

    dies = (1, 30)
    """Which worker, at which of its steps."""

    def __init__(self, config: RunConfig, *_: Any) -> None:
        self._config, self.restarts, self.barriers = config, 0, 0
        source: Any = config.source
        self.workers = [
            SimpleNamespace(
                index=index,
                actor=_Actor(config, index, 0, self.dies[1] if index == self.dies[0] else 0),
                orders=deque(),
                away=False,
                failures=0,
                replaced=False,
                since=0.0,
            )
            for index in range(source.rollout_workers)
        ]

    def call(self, method: str, arguments: Any) -> list[Any]:
        return [getattr(worker.actor, method).remote(*arguments(worker)) for worker in self.workers]

    def present(self) -> Any:
        return self.workers

    def late_at(self, worker: Any) -> float:
        return float("inf")

    def fail(self, worker: Any, error: Exception) -> None:
        self.restarts += 1
        worker.orders.clear()
        worker.actor = _Actor(self._config, worker.index, self.restarts, 0)


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(answer: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(central_pool, "Supervisor", _Supervisor)
    monkeypatch.setattr(central_pool, "ray", SimpleNamespace(wait=lambda refs, timeout: (refs, []), get=get))


def rollouts_of(config: RunConfig, calls: int) -> tuple[list[dict[str, np.ndarray]], int]:
    """Return every worker's steps, its chunks behind each other, and the number of replaced workers."""
    algorithm = config.algorithm_class()(config.algorithm, config.source_class().describe(config.source))
    pool: Any = central_pool.CentralPool(config, algorithm)
    pool.publish(0)
    chunks: list[list[Rollout]] = [pool.collect(20) for _ in range(calls)]
    workers = [
        {name: np.concatenate([chunk[w].arrays[name] for chunk in chunks]) for name in chunks[0][w].arrays}
        for w in range(len(chunks[0]))
    ]
    return workers, pool._supervisor.restarts


def central(**source: Any) -> dict[str, Any]:
    return {"num_envs": 6, "rollout_workers": 3, "worker_cpus": 0, "inference": "central", **source}


@pytest.mark.parametrize("env", ["counting_environment:Counting-v0", "counting_environment:CountingNative-v0"])
def test_memory_ends_with_the_episode_also_where_a_worker_is_replaced(env: str) -> None:
    config = from_tree(
        {
            "name": "central",
            "algorithm": {"import": "counting_memory:CountingMemory"},
            "source": {"kind": "on_policy", **central(env=env)},
            "learner": {"batch_size": 32},
            "evaluate": {"every": "500 env_steps", "episodes": 4},
            "stop": {"env_steps": 2000},
        }
    )
    workers, restarts = rollouts_of(config, 3)
    assert restarts == 1
    for number, arrays in enumerate(workers):
        valid, step = arrays["valid"], arrays["observation"][..., 2]
        np.testing.assert_array_equal(arrays["count"][valid], step[valid])
        np.testing.assert_array_equal(arrays["first"][valid], step[valid] == 0)
        if env.endswith("Counting-v0"):  # without dead steps only what was lost never happened
            assert np.flatnonzero(~valid.any(axis=1)).tolist() == ([29] if number == 1 else [])


def test_nested_observations_go_through_central_inference() -> None:
    workers, _ = rollouts_of(case("ppo", source=central(env="memory_tasks:Forbidding-v0")), 2)  # raises on disobedience
    for arrays in workers:
        assert arrays["observation.picture"].shape == (40, 2, 8, 8) and arrays["action"].shape == (40, 2, 2)
        going = arrays["valid"][:-1] & ~arrays["truncated"][:-1] & arrays["valid"][1:]
        for name in ("picture", "vector", "action_mask"):
            before, after = arrays[f"next_observation.{name}"][:-1], arrays[f"observation.{name}"][1:]
            np.testing.assert_array_equal(before[going], after[going])
        begins = arrays["truncated"][:-1] | ~arrays["valid"][:-1]
        np.testing.assert_array_equal(arrays["first"][1:], begins & arrays["valid"][1:])
