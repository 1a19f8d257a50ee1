"""Central inference: actors that only step environments, and one policy for all of them in the learner's process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from cases import case
from processes import history

import rayloom
from rayloom.cluster.central_pool import CentralPool
from rayloom.config import RunConfig
from rayloom.contract import UserError
from rayloom.environment import make_environment, spec_of
from rayloom.rollout import Rollout, RolloutWorker, restart_seed

pytestmark = pytest.mark.xdist_group("ray")


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    ray.init(address="local", include_dashboard=False, num_cpus=4, log_to_driver=False)
    yield
    ray.shutdown()


def configured(tmp_path: Path, name: str = "ppo", **source: Any) -> RunConfig:
    """Return a case with four environments in three actors: two halves of unequal size."""
    options = {key: source.pop(key) for key in ("fault", "at", "times") if key in source}
    if options:
        source |= {"env": "faulty_environment:Failing-v0", "env_options": {**options, "marks": str(tmp_path)}}
    shape = {"num_envs": 6, "rollout_workers": 3, "worker_cpus": 0, "inference": "central"}
    return case(name, str(tmp_path / "runs"), source={**shape, **source})


@contextlib.contextmanager
def opened(config: RunConfig) -> Iterator[CentralPool]:
    worker = RolloutWorker(config, 0)
    torch.manual_seed(0)
    algorithm = config.algorithm_class()(config.algorithm, spec_of(worker.environment))
    pool = CentralPool(config, algorithm)
    try:
        yield pool
    finally:
        pool.close()
        worker.close()


def collected(pool: CentralPool, calls: int, num_steps: int = 20) -> list[list[Rollout]]:
    found = []
    for version in range(calls):
        pool.publish(version)
        found.append(pool.collect(num_steps))
    return found


@pytest.mark.parametrize("name", ["ppo", "ppo_continuous"])
def test_every_transition_is_what_the_environments_do_with_these_actions(name: str, tmp_path: Path) -> None:
    config = configured(tmp_path, name, num_envs=3)
    with opened(config) as pool:
        chunks = collected(pool, 3, 50)
        assert [[rollout.worker for rollout in chunk] for chunk in chunks] == [[0, 1, 2]] * 3
        assert [{rollout.version for rollout in chunk} for chunk in chunks] == [{0}, {1}, {2}]
    for worker in range(3):
        environment = make_environment(config.source, 1, first_index=worker, worker=worker)  # type: ignore[arg-type]
        observation = environment.reset(restart_seed(config.seed, worker, 0, 0))
        for chunk in chunks:
            arrays = chunk[worker].arrays
            for t in range(50):
                np.testing.assert_array_equal(arrays["observation"][t], observation)
                step = environment.step(arrays["action"][t])
                for key in ("next_observation", "reward", "terminated", "truncated", "valid"):
                    np.testing.assert_array_equal(arrays[key][t], getattr(step, key), err_msg=key)
                observation = step.observation
        environment.close()
    ended = sum(int((r.arrays["terminated"] | r.arrays["truncated"]).sum()) for chunk in chunks for r in chunk)
    assert sum(len(rollout.episodes) for chunk in chunks for rollout in chunk) == ended
    assert ended > 0 or name == "ppo_continuous"


def test_the_policy_sees_all_environments_and_explores_in_each(tmp_path: Path) -> None:
    with opened(configured(tmp_path)) as pool:
        sizes = []
        act = pool._algorithm.act

        def counted(observation: torch.Tensor, state: Any, explore: torch.Generator | None) -> Any:
            sizes.append(len(observation))
            return act(observation, state, explore)

        pool._algorithm.act = counted  # type: ignore[method-assign]
        (chunk,) = collected(pool, 1, 30)
    assert sizes == [2, 4] * 30  # one worker in the first half, two in the second
    actions = np.concatenate([rollout.arrays["action"] for rollout in chunk], axis=1)
    assert len({column.tobytes() for column in actions.T}) == 6


def test_a_pool_repeats_itself_also_after_a_barrier(tmp_path: Path) -> None:
    def rows(chunks: list[list[Rollout]]) -> list[bytes]:
        return [array.tobytes() for chunk in chunks for rollout in chunk for array in rollout.arrays.values()]

    config = configured(tmp_path)
    with opened(config) as pool:
        before = collected(pool, 1)
        pool.barrier()
        state = pool.state_dict()
        after = collected(pool, 2)
    with opened(config) as pool:
        assert rows(collected(pool, 1)) == rows(before)
    with opened(config) as pool:
        pool.load_state_dict(state)
        assert rows(collected(pool, 2)) == rows(after)


def test_a_worker_that_dies_within_a_rollout_costs_one_step_of_its_environments(tmp_path: Path) -> None:
    with opened(configured(tmp_path, fault="die", at=30)) as pool:
        first, second = collected(pool, 2)
        assert pool.restarts == 1
        (event,) = pool.events()
        lost = int(event.split()[2])
        assert all(rollout.arrays["valid"].all() for rollout in first if rollout.worker)
        for rollout in second:
            arrays, dead = rollout.arrays, ~rollout.arrays["valid"]
            if rollout.worker != lost:
                continue
            rows = {int(t) for t in np.flatnonzero(dead.all(axis=1))}
            assert 9 in rows, "the step of the fault, the 30th"
            assert not arrays["truncated"][9].any() and not arrays["reward"][9].any()
            assert (arrays["truncated"][8] | arrays["terminated"][8] | dead[8]).all()
            assert np.abs(arrays["observation"][10]).max() <= 0.05, "CartPole starts within 0.05 of the origin"
        finished = [episode for chunk in (first, second) for rollout in chunk for episode in rollout.episodes]
        assert all(total == length for total, length in finished)  # a reward of one a step: no episode was patched
        assert sum(rollout.env_steps for rollout in second) == sum(int(r.arrays["valid"].sum()) for r in second)


def test_a_run_with_central_inference_repeats_itself(tmp_path: Path) -> None:
    config = configured(tmp_path)
    runs = [rayloom.run(config) for _ in range(2)]
    assert runs[0].weights_sha256 == runs[1].weights_sha256
    assert history(runs[0].run_dir) == history(runs[1].run_dir)
    assert runs[0].counters["env_steps"] >= 1024
    assert runs[0].counters["episodes"] > 10


@pytest.mark.parametrize(("name", "source"), [("dqn", {"in_flight": 2}), ("impala", {})])
def test_workers_that_run_ahead_cannot_have_a_central_policy(name: str, source: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"source.inference: central needs"):
        rayloom.run(configured(tmp_path, name, **source))
