"""Central inference: actors that only step environments, and one policy for all of them in the learner's process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rayloom
from cases import case
from pools import collected, opened
from processes import history
from rayloom.config.schema import RunConfig
from rayloom.contract import Rollout
from rayloom.rollouts.making import make_environment
from rayloom.rollouts.worker import restart_seed

pytestmark = [pytest.mark.xdist_group("second_ray"), pytest.mark.usefixtures("one_node")]


def configured(tmp_path: Path, name: str = "ppo", **source: Any) -> RunConfig:
    """Return a case with four environments in three actors: two halves of unequal size."""
    options = {key: source.pop(key) for key in ("fault", "at", "times") if key in source}
    if options:
        source |= {"env": "faulty_environment:Failing-v0", "env_options": {**options, "marks": str(tmp_path)}}
    shape = {"num_envs": 6, "rollout_workers": 3, "worker_cpus": 0, "inference": "central"}
    return case(name, str(tmp_path / "runs"), source={**shape, **source})


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


@pytest.mark.parametrize("in_flight", [0, 2])
def test_every_environment_explores_at_its_own_rate(in_flight: int, tmp_path: Path) -> None:
    """By Ape-X's formula environment i of 6 explores at 0.4^(1 + 7 i / 5): the first often, the last hardly ever."""
    config = configured(tmp_path, "dqn", in_flight=in_flight, env="CartPole-v1")
    rates = {"exploration_spread": 7.0, "exploration_start": 0.4, "exploration_end": 0.4}
    config = replace(config, algorithm=replace(config.algorithm, **rates))
    with opened(config) as pool:
        pool.publish(0)
        rollouts = [pool.take(400) for _ in range(3)] if in_flight else pool.collect(400)
        greedy = pool._algorithm
        greedy.after_publish()
        other = []
        for rollout in rollouts:
            for column in range(2):
                observation = torch.from_numpy(rollout.arrays["observation"][:, column])
                best = greedy.act(observation, None, None).action.numpy()
                other.append(float((best != rollout.arrays["action"][:, column]).mean()))
    # Half of the random actions are the best one, and six standard deviations are allowed for.
    for place, found in enumerate(other):
        expected = 0.4 ** (1 + 7 * place / 5) / 2
        assert abs(found - expected) < 6 * (expected * (1 - expected) / 400) ** 0.5 + 1e-9, (place, found, expected)


# --- streams -------------------------------------------------------------------------------------------------------


def stream(pool: Any, takes: int, num_steps: int = 10, version: int = 0) -> list[Rollout]:
    found = []
    for take in range(takes):
        pool.publish(version + take)
        found.append(pool.take(num_steps))
    return found


def rows(rollouts: list[Rollout]) -> list[bytes]:
    return [array.tobytes() for rollout in rollouts for array in rollout.arrays.values()]


def test_a_stream_repeats_itself_and_is_as_old_as_promised(tmp_path: Path) -> None:
    config = configured(tmp_path, "impala", in_flight=2)
    streams = []
    for _ in range(2):
        with opened(config) as pool:
            taken = stream(pool, 9)
            streams.append(taken + pool.drain())
    first, second = streams
    assert rows(first) == rows(second) and [r.episodes for r in first] == [r.episodes for r in second]
    assert [rollout.worker for rollout in first] == [0, 1, 2] * 5
    # Two orders under version 0; the third is given when the third rollout is taken, under version 2, and so on.
    assert [rollout.version for rollout in first] == [0] * 6 + [2] * 3 + [5] * 3 + [8] * 3


def test_a_stream_goes_on_after_a_barrier_as_after_a_resume(tmp_path: Path) -> None:
    config = configured(tmp_path, "impala", in_flight=2)
    with opened(config) as pool:
        stream(pool, 4)
        assert len(pool.drain()) == 5
        pool.barrier()
        state = pool.state_dict()
        expected = stream(pool, 5)
    with opened(config) as pool:
        pool.load_state_dict(state)
        assert rows(stream(pool, 5)) == rows(expected)


def test_the_policy_is_at_work_again_while_what_a_barrier_kept_is_used(tmp_path: Path) -> None:
    config = configured(tmp_path, "impala", in_flight=2)
    with opened(config) as pool:
        stream(pool, 4)
        kept = pool.drain()
        assert [rollout.worker for rollout in kept] == [1, 2, 0, 1, 2]
        pool.barrier()
        for version, rollout in enumerate(kept, 11):
            pool.publish(version)
            pool.order(10, rollout.worker)
        later = stream(pool, 7, version=20)
    assert [rollout.version for rollout in later] == [12] * 3 + [15] * 3 + [22]
    assert [rollout.restarted for rollout in later] == [True] * 3 + [False] * 4


def test_the_policy_of_a_stream_is_the_learners_at_the_time_of_the_order(tmp_path: Path) -> None:
    config = configured(tmp_path, "impala", in_flight=1)
    with opened(config) as pool:
        learner = pool._algorithm
        stream(pool, 3)  # the second order was given with the last of these
        with torch.no_grad():
            for name, value in learner.named_parameters():
                value.fill_(0.0 if "bias" not in name else 1.0)
        second = stream(pool, 3, version=3)
        third = stream(pool, 3, version=6)

    def probabilities(rollouts: list[Rollout]) -> np.ndarray:
        found: np.ndarray = np.concatenate([rollout.arrays["log_probability"].ravel() for rollout in rollouts])
        return found

    # All outputs are equal under the new weights: both actions have the probability 1/2.
    assert np.ptp(probabilities(second)) > 0
    np.testing.assert_allclose(probabilities(third), np.log(0.5), rtol=1e-6)


def test_a_stream_survives_its_workers_and_ends_with_them(tmp_path: Path) -> None:
    with opened(configured(tmp_path, "impala", in_flight=2, fault="die", at=30)) as pool:
        taken = stream(pool, 30)
        assert [rollout.worker for rollout in taken] == [0, 1, 2] * 10
        pool.drain()
        assert pool.restarts == 1
        (event,) = pool.events()
        assert event.startswith("rollout worker ") and "was replaced" in event
        assert len(pool.processes()) == 3
        pool.barrier()
        assert sum(saved["restarts"] for saved in pool.state_dict()["workers"]) == 1
        stream(pool, 4)
        # closed with orders in work


def test_a_stream_draws_nothing_from_the_learners_generator(tmp_path: Path) -> None:
    config = configured(tmp_path, "impala", in_flight=2)
    with opened(config) as pool:
        before = torch.get_rng_state()
        another = type(pool)(config, pool._algorithm)
        stream(another, 4)
        another.close()
        another.close()
        assert torch.equal(torch.get_rng_state(), before)


def test_what_the_policys_thread_raises_is_raised_by_the_stream(tmp_path: Path) -> None:
    with opened(configured(tmp_path, "impala", in_flight=2)) as pool:

        def act(*arguments: Any) -> None:
            raise ZeroDivisionError("in the thread")

        pool._policy.act = act
        with pytest.raises(ZeroDivisionError, match="in the thread"):
            pool.take(5)


@pytest.mark.parametrize("name", ["impala", pytest.param("dqn_ahead", marks=pytest.mark.full)])
def test_a_run_whose_central_policy_runs_ahead_repeats_itself(name: str, tmp_path: Path) -> None:
    config = configured(tmp_path, name)
    runs = [rayloom.run(config) for _ in range(2)]
    assert runs[0].weights_sha256 == runs[1].weights_sha256
    assert history(runs[0].run_dir) == history(runs[1].run_dir)
    assert runs[0].counters["episodes"] > 10
    struck = rayloom.run(config, chaos="rollout=2")
    assert struck.chaos is not None and struck.chaos["replaced"] == {"rollout": 2}
