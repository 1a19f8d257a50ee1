"""Sources whose workers run ahead: nothing is lost or learnt from twice, lag is bounded, resuming is exact."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cases import case
from contexts import context_of, reach_barrier, restore, saved
from rayloom.checkpoint.store import CheckpointStore
from rayloom.config.schema import RunConfig
from rayloom.config.sources import AsynchronousSourceConfig, ReplaySourceConfig
from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Trajectory
from rayloom.rollouts.worker import RolloutWorker
from rayloom.runs.learner_role import LearnerRole
from rayloom.runs.loop import make_schedule
from rayloom.sources.asynchronous import AsynchronousSource
from rayloom.sources.replay import ReplaySource
from streams import CountingStream, WorkerStream


class _Rows(Algorithm):
    """Keeps trajectories and segments as they are."""

    def prepare(self, trajectory: Trajectory) -> Batch:
        if "valid" not in trajectory:
            return trajectory
        return {
            "observation": trajectory["observation"].transpose(0, 1),
            "valid": trajectory["valid"].transpose(0, 1),
        }


class _NoCollectives:
    """A group in which nobody may wait for anybody."""

    rank, world_size = 1, 2

    def all_reduce(self, tensor: torch.Tensor) -> None:
        raise AssertionError("an asynchronous source waits for another learner")

    def sum_counts(self, counts: Any) -> list[int]:
        raise AssertionError("an asynchronous source waits for another learner")


def _source(
    workers: int = 2, in_flight: int = 2, batch_size: int = 4, num_envs: int = 4, **settings: Any
) -> tuple[AsynchronousSource, CountingStream]:
    tree = {"kind": "asynchronous", "env": "-", "num_envs": num_envs, "rollout_steps": 10, "in_flight": in_flight}
    config = AsynchronousSourceConfig(**{**tree, "rollout_workers": workers, **settings})
    stream = CountingStream(workers, in_flight, num_envs)
    algorithm = _Rows(AlgorithmConfig(), {})
    context = context_of(algorithm, batch_size, pool=stream, group=_NoCollectives())
    return AsynchronousSource(config, context), stream


def _identities(batch: Batch) -> list[tuple[int, int]]:
    """Return (environment, first time) of each row."""
    return [(int(row[0, 0]), int(row[0, 1])) for row in batch["observation"]]


@pytest.mark.parametrize("batch_size", [1, 3, 4, 16])
def test_every_trajectory_is_learnt_from_once_and_in_order(batch_size: int) -> None:
    source, _ = _source(batch_size=batch_size)
    batches = [source.next() for _ in range(48 // batch_size)]
    assert all(len(value) == batch_size for batch in batches for value in batch.values())
    found = [row for batch in batches for row in _identities(batch)]
    turns = [[(0, time), (1, time), (2, time), (3, time)] for time in range(0, 120, 10)]  # worker 0, then worker 1
    assert found == [row for turn in turns for row in turn][: len(found)]


def test_counters_count_what_was_learnt_from() -> None:
    source, stream = _source(batch_size=4)
    for number in range(1, 6):
        source.next()
        # A trajectory of ten steps has two dead ones.
        assert source.counters() == {"env_steps": 32 * number, "episodes": 2 * number, "samples": 32 * number}
    assert stream.taken == 10


@pytest.mark.parametrize(("workers", "in_flight", "num_envs"), [(1, 1, 1), (2, 2, 4), (3, 1, 6), (2, 4, 16), (4, 2, 4)])
@pytest.mark.parametrize("batch_size", [1, 2, 5, 16])
@pytest.mark.parametrize("barrier_every", [1000, 3])
def test_lag_stays_within_its_bound(
    workers: int, in_flight: int, num_envs: int, batch_size: int, barrier_every: int
) -> None:
    source, stream = _source(workers, in_flight, batch_size, num_envs, max_lag=10_000)
    bound = math.ceil((in_flight * num_envs + num_envs // workers - 1) / batch_size)
    largest = 0.0
    for number in range(1, 150):
        source.next()
        if number % barrier_every == 0:
            reach_barrier(source, stream)
        largest = max(largest, source.metrics()["policy_lag_max"])
    assert largest <= bound
    if batch_size == 1 and barrier_every == 1000:
        assert largest == bound, "the bound is tight"


def test_lags_are_reported_and_forgotten() -> None:
    source, _ = _source(workers=1, in_flight=1, num_envs=2, batch_size=2)
    for _ in range(3):
        source.next()
    # The first rollout is ordered when nothing was drawn (lag 0), each further one when the one before is taken.
    assert source.metrics() == {
        "return_mean": 1.0,
        "return_max": 1.0,
        "episode_length_mean": 2.0,
        "policy_lag_mean": pytest.approx(2 / 3),
        "policy_lag_max": 1.0,
        "dropped_trajectories": 0.0,
    }
    assert source.metrics() == {"dropped_trajectories": 0.0}


@pytest.mark.parametrize("max_lag", [0, 1, 2])
def test_what_is_too_old_is_dropped_and_counted(max_lag: int) -> None:
    source, stream = _source(in_flight=3, batch_size=2, max_lag=max_lag)
    seen: set[tuple[int, int]] = set()
    dropped = 0
    for _ in range(30):
        rows = _identities(source.next())
        assert len(rows) == 2 and not seen & set(rows)
        seen |= set(rows)
        metrics = source.metrics()
        assert metrics["policy_lag_max"] <= max_lag
        dropped += int(metrics["dropped_trajectories"])
    assert dropped > 0
    assert source.counters()["env_steps"] == 8 * (len(seen) + dropped), "dropped steps were made all the same"
    assert source.counters()["samples"] == 8 * len(seen)
    in_stock = 2 * stream.taken - len(seen) - dropped
    assert 0 <= in_stock < 4


def test_the_oldest_policy_comes_first_in_order_of_arrival() -> None:
    source, _ = _source(batch_size=3)
    rollouts = []
    for version in (5, 3, 5, 4):
        source._pool.publish(version)
        rollouts.append(source._pool.make(0, 10))  # type: ignore[attr-defined]
    source._draws = 5
    for rollout in rollouts:
        source._receive(rollout)
    times = [time for _ in range(2) for _, time in _identities(source.next())]
    assert times == [10, 10, 30, 30, 0, 0]


def test_a_barrier_moves_no_counter_and_loses_nothing() -> None:
    source, stream = _source(batch_size=3)
    seen = [row for _ in range(5) for row in _identities(source.next())]
    before = source.counters()
    reach_barrier(source, stream)
    assert source.counters() == before and stream.barriers == 1 and not any(stream.orders)
    # 16 rows had been taken, 4 * 2 more were in flight; then time has jumped.
    seen += [row for _ in range(5) for row in _identities(source.next())]
    assert sorted(seen)[:24] != sorted(seen) and len(set(seen)) == len(seen) == 30
    assert {row for row in seen if row[1] < 1000} == {(n, time) for n in range(4) for time in range(0, 60, 10)}


@pytest.mark.parametrize("draws", [1, 2, 5, 7])
@pytest.mark.parametrize("batch_size", [3, 4])
def test_a_restored_source_goes_on_identically(draws: int, batch_size: int, tmp_path: Path) -> None:
    source, stream = _source(batch_size=batch_size, max_lag=2)
    for _ in range(draws):
        source.next()
    reach_barrier(source, stream)
    store = CheckpointStore(tmp_path, 1, "max")
    store.save(1, saved(source, stream))
    loaded = store.load_latest()
    assert loaded is not None
    copy, copied = _source(batch_size=batch_size, max_lag=2)
    restore(copy, copied, loaded.state)
    for number in range(12):
        assert _identities(source.next()) == _identities(copy.next())
        assert source.counters() == copy.counters()
        if number == 3:  # the next barrier finds rollouts of the one before
            reach_barrier(source, stream), reach_barrier(copy, copied)
    assert source.metrics() == copy.metrics()


def test_a_rollout_in_flight_is_saved_whole(tmp_path: Path) -> None:
    source, stream = _source()
    stream.restarted.add(1)
    stream.publish(7)
    source._drained.append(stream.make(1, 10))
    store = CheckpointStore(tmp_path, 1, "max")
    store.save(1, saved(source, stream))
    loaded = store.load_latest()
    assert loaded is not None
    copy, copied = _source()
    restore(copy, copied, loaded.state)
    (before,), (after,) = source._drained, copy._drained
    assert before.restarted and before.arrays.keys() == after.arrays.keys()
    assert replace(before, arrays={}) == replace(after, arrays={})
    for name, value in before.arrays.items():
        np.testing.assert_array_equal(value, after.arrays[name])


# --- whole roles -----------------------------------------------------------------------------------------------------

AHEAD: dict[str, dict[str, Any]] = {
    "impala": {"source": {"rollout_workers": 3, "in_flight": 2}},
    "impala_continuous": {"source": {"rollout_workers": 2, "in_flight": 3, "max_lag": 1}},
    "dqn_ahead": {"source": {"rollout_workers": 2, "in_flight": 2}, "stop": {"env_steps": 500}},
    "dqn": {
        "source": {"rollout_workers": 4, "in_flight": 1, "collect_steps": 3, "n_step": 2},
        "stop": {"env_steps": 500},
    },
}


def _finish(role: LearnerRole, save_at: int = 0, store: CheckpointStore | None = None) -> list[Any]:
    """Advance to the end with a barrier at every checkpoint; save the `save_at`-th one."""
    schedule = make_schedule(role.config, None)
    history: list[Any] = []
    checkpoints = 0
    while True:
        advance = role.advance(schedule)
        history.append({name: value for name, value in role.metrics().items() if name.startswith("train/")})
        history.append(advance.counters)
        if advance.exhausted:
            return history
        if "checkpoint" in advance.due:
            checkpoints += 1
            state = role.barrier_and_state()
            if checkpoints == save_at and store is not None:
                store.save(1, state)
                history.clear()


def _config(name: str) -> RunConfig:
    return case(name, **AHEAD[name])


@pytest.mark.parametrize("name", sorted(AHEAD))
def test_a_run_ahead_of_itself_resumes_to_the_same_bits(name: str, tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, 1, "max")
    whole = LearnerRole(_config(name), WorkerStream)
    rest = _finish(whole, save_at=3, store=store)
    again = LearnerRole(_config(name), WorkerStream)
    assert _finish(again)[-len(rest) :] == rest
    assert again.weights_sha256() == whole.weights_sha256(), "two seeded runs agree"

    torch.manual_seed(99)  # a new process starts with other generators
    loaded = store.load_latest()
    assert loaded is not None
    copy = LearnerRole(_config(name), WorkerStream)
    copy.load_state(loaded.state)
    assert _finish(copy) == rest
    assert copy.weights_sha256() == whole.weights_sha256()
    for role in (whole, again, copy):
        role.close()


# --- replay ----------------------------------------------------------------------------------------------------------


def _replay(workers: int = 2, **settings: Any) -> tuple[ReplaySource, CountingStream]:
    tree = {"kind": "replay", "env": "-", "num_envs": 4, "capacity": 400, "learning_starts": 20, "collect_steps": 5}
    config = ReplaySourceConfig(**{**tree, "rollout_workers": workers, "in_flight": 2, **settings})
    stream = CountingStream(workers, 2, 4)
    return ReplaySource(config, context_of(_Rows(AlgorithmConfig(), {}), 64, pool=stream)), stream


def _segment_steps(source: ReplaySource) -> set[tuple[int, int, int]]:
    """Return (environment, first time, length) of many sampled segments, after looking at each."""
    found = set()
    for _ in range(30):
        batch = source._sample()
        for row in range(64):
            environment, time = (int(value) for value in batch["observation"][row])
            length = int(batch["length"][row])
            assert batch["next_observation"][row].tolist() == [environment, time + length - 0.5]
            assert batch["reward"][row].tolist()[:length] == list(range(time, time + length))
            found.add((environment, time, length))
    return found


def test_replay_ahead_takes_only_what_is_due() -> None:
    source, stream = _replay(steps_per_update=4)
    steps = []
    for _ in range(4):
        source.next()
        steps.append(source.counters()["env_steps"])
    # A rollout of 2 environments has 8 valid steps of 10: 20, 24, 28 and 32 are due.
    assert steps == [24, 24, 32, 32] and stream.taken == 4


def test_replay_in_order_of_arrival_takes_what_is_there_but_not_for_ever() -> None:
    source, stream = _replay(steps_per_update=4, order="arrival")
    source.next()
    assert stream.taken == 3 + 4, "3 rollouts are due; in_flight * workers more wait at most"
    source.next()
    assert stream.taken == 7 + 4
    stream.ready = lambda: False  # type: ignore[method-assign]
    source.next()
    assert stream.taken == 11


@pytest.mark.parametrize("prioritized", [False, True])
def test_segments_stay_inside_one_worker_and_cross_its_rollouts(prioritized: bool) -> None:
    source, _ = _replay(n_step=3, learning_starts=80, collect_steps=2, prioritized=prioritized)
    source.next()
    found = _segment_steps(source)
    assert {environment for environment, _, _ in found} == {0, 1, 2, 3}
    # Episodes are cut off at times 3, 8, 13, ...: a rollout of two steps never holds a segment of three.
    assert {(time % 5, length) for _, time, length in found if time < 15} == {(0, 3), (1, 3), (2, 2), (3, 1)}


def test_a_barrier_ends_the_segments_behind_what_was_in_flight() -> None:
    source, stream = _replay(n_step=3, learning_starts=40, collect_steps=2, steps_per_update=8)
    source.next()
    before, stored = source.counters(), len(source._buffer)
    reach_barrier(source, stream)
    assert source.counters() == before and len(source._buffer) == stored
    last = stream.times[0] - 1000  # how far the workers were at the barrier
    for _ in range(12):
        source.next()
    assert not source._drained
    found = _segment_steps(source)
    at_the_end = {time: length for _, time, length in found if time in (last - 1, last - 2)}
    assert at_the_end and all(time + length <= last for time, length in at_the_end.items())
    assert any(time >= 1000 for _, time, _ in found)
    # What was in flight goes on with what had been stored: two rollouts of two steps of each worker.
    in_store = last - 4
    assert {(n, in_store - 1, 3) for n in (0, 1)} <= found


def test_a_barrier_soon_after_another_ends_segments_too() -> None:
    source, stream = _replay(n_step=3, learning_starts=40, collect_steps=2, steps_per_update=3)
    source.next()
    ends = []
    for _ in range(3):  # each while rollouts from before the last one are still in hand
        reach_barrier(source, stream)
        ends.append([time - 1000 for time in stream.times])
        assert source._drained
        source.next()
        source.next()
    for _ in range(24):
        source.next()
    found = _segment_steps(source)
    for first, second in ends:
        for environment, time, length in found:
            last = first if environment < 2 else second
            assert time + length <= last or time >= last, "a segment runs over a barrier"
    assert max(time for _, time, _ in found) >= 3000 and max(length for _, _, length in found) == 3


def test_a_replaced_worker_does_not_continue_the_segments_of_its_predecessor() -> None:
    source, stream = _replay(n_step=3, learning_starts=10, collect_steps=2, steps_per_update=4)
    source.next()
    lost = stream.times[1]
    stream.times[1] += 100  # the successor's episodes are others
    stream.restarted.add(1)
    for _ in range(20):
        source.next()
    found = _segment_steps(source)
    assert all(time + length <= lost or time >= lost + 100 for n, time, length in found if n >= 2)
    assert any(time >= lost + 100 for n, time, _ in found if n >= 2)
    assert max(length for _, _, length in found) == 3


def test_a_worker_that_is_away_leaves_the_others_columns_in_order() -> None:
    source, stream = _replay(n_step=3, in_flight=0, learning_starts=60, collect_steps=2)
    whole, rounds = stream.collect, iter(range(1000))

    def collect(num_steps: int) -> list[Any]:
        away = 3 <= next(rounds) < 6
        if away:
            stream.restarted.add(1)
            return [stream.make(0, num_steps)]
        return whole(num_steps)

    stream.collect = collect  # type: ignore[method-assign]
    stream.times[1] = 500
    source.next()
    found = _segment_steps(source)
    assert {time for n, time, _ in found if n < 2} == {time for time in range(stream.times[0]) if time % 5 != 4}
    away_at = 506  # worker 1 had made three rollouts; its successor goes on counting there
    assert all(time + length <= away_at or time >= away_at for n, time, length in found if n >= 2)
    assert {time for n, time, _ in found if n >= 2} == {t for t in range(500, stream.times[1]) if t % 5 != 4}
    assert source.counters()["env_steps"] == len(source._buffer)


def test_exploration_is_told_which_environments_it_acts_for() -> None:
    config = case("dqn_ahead", source={"rollout_workers": 2})
    workers = [RolloutWorker(config, index) for index in range(2)]
    algorithms = [worker._algorithm for worker in workers]
    assert [list(algorithm.environments) for algorithm in algorithms] == [[0, 1], [2, 3]]
    assert [algorithm.num_environments for algorithm in algorithms] == [4, 4]
    for worker in workers:
        worker.close()
