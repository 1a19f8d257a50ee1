"""Rollout workers as actors: streams, and what happens when a worker dies, hangs, leaks or raises."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from ray._private.internal_api import memory_summary

from cases import case
from pools import assert_gone, collected, opened
from rayloom.config.schema import RunConfig
from rayloom.contract import Rollout
from rayloom.errors import EnvironmentFault, RoleDiedError, UserError

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.usefixtures("one_node")]


def configured(tmp_path: Path, name: str = "ppo", deadline_s: float = 60.0, **source: Any) -> RunConfig:
    """Return a case with two rollout workers; with a `fault`, in environments that fail."""
    cluster = {"deadline_s": deadline_s, "worker_memory_mib": source.pop("worker_memory_mib", None)}
    options = {key: source.pop(key) for key in ("fault", "at", "times") if key in source}
    if options:
        marks = tmp_path / "marks"
        marks.mkdir(exist_ok=True)
        source |= {"env": "faulty_environment:Failing-v0", "env_options": {**options, "marks": str(marks)}}
    return case(name, source={"num_envs": 4, "rollout_workers": 2, "worker_cpus": 0, **source}, cluster=cluster)


def equal(left: Rollout, right: Rollout) -> bool:
    return (left.worker, left.version, left.episodes) == (right.worker, right.version, right.episodes) and all(
        np.array_equal(left.arrays[name], right.arrays[name]) for name in left.arrays
    )


# --- streams -------------------------------------------------------------------------------------------------------


def test_a_stream_in_fixed_order_repeats_itself_and_is_as_old_as_promised(tmp_path: Path) -> None:
    config = configured(tmp_path, "dqn", in_flight=2)
    streams = []
    for _ in range(2):
        with opened(config) as pool:
            stream = []
            for version in range(8):
                pool.publish(version)
                stream.append(pool.take(3))
            streams.append(stream + pool.drain())
    first, second = streams
    assert all(equal(one, other) for one, other in zip(first, second, strict=True))
    assert [rollout.worker for rollout in first] == [0, 1] * 6
    # Two orders of each worker under version 0; the k-th take orders its worker's third rollout from there on.
    assert [rollout.version for rollout in first] == [0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7]
    assert all(rollout.arrays["observation"].shape == (3, 2, 4) for rollout in first)


def test_a_stream_goes_on_after_a_barrier_as_after_a_resume(tmp_path: Path) -> None:
    config = configured(tmp_path, "dqn", in_flight=2)
    with opened(config) as pool:
        pool.publish(0)
        for _ in range(3):
            pool.take(3)
        pool.drain()
        pool.barrier()
        state = pool.state_dict()
        pool.publish(1)
        expected = [pool.take(3) for _ in range(5)]
    assert state["turn"] == 1 and [saved["barriers"] for saved in state["workers"]] == [1, 1]
    with opened(config) as pool:
        pool.load_state_dict(state)
        pool.publish(1)
        found = [pool.take(3) for _ in range(5)]
        pool.drain()
        pool.barrier()
        assert [saved["barriers"] for saved in pool.state_dict()["workers"]] == [2, 2]
    assert all(equal(one, other) for one, other in zip(expected, found, strict=True))
    assert [rollout.worker for rollout in found] == [1, 0, 1, 0, 1]


@pytest.mark.parametrize("resumed", [False, True])
def test_workers_are_at_work_again_while_what_a_barrier_kept_is_used(resumed: bool, tmp_path: Path) -> None:
    config = configured(tmp_path, "dqn", in_flight=2)
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(opened(config))
        pool.publish(0)
        for _ in range(3):
            pool.take(3)
        kept = pool.drain()
        assert [rollout.worker for rollout in kept] == [1, 0, 1, 0]
        pool.barrier()
        if resumed:
            state = pool.state_dict()
            pool = stack.enter_context(opened(config))
            pool.load_state_dict(state)
        for version, rollout in enumerate([*kept, kept[0]], 1):
            pool.publish(version)
            pool.order(3, rollout.worker)  # the fifth is one too many
        pool.publish(9)
        later = [pool.take(3) for _ in range(6)]
    assert [rollout.worker for rollout in later] == [1, 0, 1, 0, 1, 0]
    assert [rollout.version for rollout in later] == [1, 2, 3, 4, 9, 9]
    # A reader of what was kept has to know where the environments were restarted.
    assert [rollout.restarted for rollout in later] == [True, True, False, False, False, False]


def test_a_stream_in_order_of_arrival_does_not_wait_for_a_slow_worker(tmp_path: Path) -> None:
    config = configured(tmp_path, "dqn", in_flight=1, order="arrival")
    with opened(config) as pool:
        pool.publish(0)
        first = pool.take(2)
        slow = next(process for process in pool.processes() if process.index != first.worker)
        os.kill(slow.pid, signal.SIGSTOP)
        workers = [pool.take(2).worker for _ in range(12)]
        os.kill(slow.pid, signal.SIGCONT)
        # What the slow one had made before it was stopped may be among them, and no more.
        assert workers.count(slow.index) <= 1
        deadline = time.monotonic() + 30
        while pool.take(2).worker != slow.index:
            assert time.monotonic() < deadline
    assert pool.restarts == 0


# --- faults --------------------------------------------------------------------------------------------------------


def rollouts_of(pool: Any, calls: int) -> list[Rollout]:
    return [rollout for call in collected(pool, calls) for rollout in call]


@pytest.mark.parametrize(
    ("fault", "deadline_s"), [("die", 60.0), ("hang", 6.0), ("stop", 6.0), ("raise", 60.0), ("nan", 60.0)]
)
def test_a_worker_that_fails_is_replaced_and_nothing_is_missing(fault: str, deadline_s: float, tmp_path: Path) -> None:
    with opened(configured(tmp_path, deadline_s=deadline_s, fault=fault)) as pool:
        before = {process.index: process.pid for process in pool.processes()}
        rollouts = rollouts_of(pool, 5)
        after = {process.index: process.pid for process in pool.processes()}
        assert [rollout.worker for rollout in rollouts] == [0, 1] * 5
        assert [rollout.env_steps for rollout in rollouts] == [int(r.arrays["valid"].sum()) for r in rollouts]
        assert pool.restarts == 1
        (lost,) = [index for index in before if before[index] != after[index]]
        # The third call reaches step 50; its rollout is the first of the new worker.
        assert [rollout.restarted for rollout in rollouts] == [r // 2 == 2 and r % 2 == lost for r in range(10)]
        (event,) = pool.events()
        assert event.startswith(f"rollout worker {lost} was replaced: ")
        assert not pool.events()
        assert_gone([before[lost]])


def test_a_replaced_worker_sees_other_episodes_than_its_predecessor(tmp_path: Path) -> None:
    config = configured(tmp_path)
    with opened(config) as pool:
        first = rollouts_of(pool, 1)
        for process in pool.processes():
            os.kill(process.pid, signal.SIGKILL)
        second = rollouts_of(pool, 1)
        assert not any(
            np.array_equal(one.arrays["observation"][0], other.arrays["observation"][0])
            for one, other in zip(first, second, strict=True)
        )
        pool.barrier()
        state = pool.state_dict()
        assert [saved["restarts"] for saved in state["workers"]] == [1, 1]
        third = rollouts_of(pool, 2)
    with opened(config) as pool:
        pool.load_state_dict(state)
        assert all(equal(one, other) for one, other in zip(third, rollouts_of(pool, 2), strict=True))
        assert pool.restarts == 2


def test_a_stream_survives_its_workers(tmp_path: Path) -> None:
    with opened(configured(tmp_path, "dqn", in_flight=2, fault="die", at=30, times=3)) as pool:
        taken = []
        for version in range(24):
            pool.publish(version)
            taken.append(pool.take(10))
        taken += pool.drain()
        assert [rollout.worker for rollout in taken] == [0, 1] * 14
        assert sum(rollout.restarted for rollout in taken) == pool.restarts == 3
        pool.barrier()
        assert len(pool.state_dict()["workers"]) == 2


def test_an_environment_that_leaks_costs_its_worker(tmp_path: Path) -> None:
    config = configured(tmp_path, worker_memory_mib=500, fault="leak")
    with opened(config) as pool:
        rollouts = rollouts_of(pool, 5)
        assert max(rollout.memory_mib for rollout in rollouts) > 500 > rollouts[-1].memory_mib
        assert pool.restarts == 1
        assert "had grown to" in pool.events()[0]


def test_a_limit_that_no_worker_can_keep_is_refused(tmp_path: Path) -> None:
    with (
        opened(configured(tmp_path, worker_memory_mib=10)) as pool,
        pytest.raises(UserError, match=r"cluster.worker_memory_mib: rollout worker \d needs"),
    ):
        rollouts_of(pool, 1)


@pytest.mark.parametrize(
    ("fault", "expected", "text"),
    [
        ("raise", ArithmeticError, "poisoned"),
        ("nan", EnvironmentFault, "nan"),
        ("die", RoleDiedError, "3 times in a row"),
    ],
)
def test_an_environment_that_always_fails_ends_the_run_after_three_tries(
    fault: str, expected: type[Exception], text: str, tmp_path: Path
) -> None:
    config = configured(tmp_path, fault=fault, at=5, times=0, num_envs=1, rollout_workers=1)
    with opened(config) as pool:
        with pytest.raises(expected, match=text) as caught:
            rollouts_of(pool, 1)
        if fault == "raise":
            notes = "\n".join(caught.value.__notes__)
            assert "environment 0 of rollout worker 0 raised at its step 5" in notes
            assert "faulty_environment.py" in notes  # the traceback of the process that raised
    assert len(list((tmp_path / "marks").iterdir())) == 3


def test_exceptions_of_an_environment_are_counted_over_the_run(tmp_path: Path) -> None:
    # Each time it comes a long way, so that deaths would be forgiven.
    config = configured(tmp_path, fault="raise", at=50, times=0, num_envs=1, rollout_workers=1)
    with opened(config) as pool, pytest.raises(ArithmeticError, match="poisoned"):
        rollouts_of(pool, 100)
    assert len(list((tmp_path / "marks").iterdir())) == 3


def test_an_error_of_the_algorithm_is_not_tried_again(tmp_path: Path) -> None:
    config = configured(tmp_path)
    with opened(config) as pool:
        pool._algorithm.state_dict = lambda: {"nonsense": torch.zeros(1)}  # type: ignore[method-assign,assignment,misc]
        with pytest.raises(RuntimeError, match="nonsense"):
            rollouts_of(pool, 1)
        assert pool.restarts == 0


def test_a_worker_that_dies_at_a_barrier_is_replaced_there(tmp_path: Path) -> None:
    with opened(configured(tmp_path)) as pool:
        rollouts_of(pool, 1)
        os.kill(pool.processes()[1].pid, signal.SIGKILL)
        pool.barrier()
        assert [saved["barriers"] for saved in pool.state_dict()["workers"]] == [1, 1]
        assert [saved["restarts"] for saved in pool.state_dict()["workers"]] == [0, 1]


def test_the_store_keeps_nothing_of_rollouts_and_old_weights(tmp_path: Path) -> None:
    config = configured(tmp_path, "dqn", in_flight=2)
    config = replace(config, algorithm=replace(config.algorithm, hidden_sizes=(512, 512)))  # type: ignore[call-arg]
    with opened(config) as pool:
        sizes = []
        for version in range(60):
            pool.publish(version)  # 2 MiB each
            rollout = pool.take(4)
            # Views would pin the store's objects for as long as a source keeps them.
            assert all(array.flags.owndata and array.flags.writeable for array in rollout.arrays.values())
            if version % 20 == 19:
                sizes.append(min(stored_mib() for _ in range(5)))
    assert 0 < sizes[-1] < 30, sizes


def stored_mib() -> float:
    """Return what Ray's store holds; it frees objects a moment after they were let go."""
    time.sleep(0.2)
    summary = memory_summary(address=ray.get_runtime_context().gcs_address, stats_only=True)
    found = re.search(r"Plasma memory usage ([0-9.]+) MiB", summary)
    assert found, summary
    return float(found[1])
