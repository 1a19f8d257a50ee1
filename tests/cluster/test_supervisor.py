"""A supervisor whose workers find no room any more: the others go on without them, or wait until there is room."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from cases import case
from pools import opened
from rayloom.config.schema import RunConfig
from rayloom.config.shares import environment_share
from rayloom.errors import RoleTimeoutError
from rayloom.rollouts.making import make_environment
from rayloom.rollouts.worker import restart_seed

pytestmark = [
    pytest.mark.xdist_group("second_ray"),
    pytest.mark.usefixtures("one_node"),
]
# These wait for long, and a central policy's workers one after the other.
both = pytest.mark.parametrize("inference", ["worker", pytest.param("central", marks=pytest.mark.full)])


@ray.remote(max_restarts=0)
class Occupant:
    """Holds CPUs as another run would."""

    def ready(self) -> bool:
        return True


@pytest.fixture
def occupants() -> Iterator[list[Any]]:
    """Return a list of actors that are ended at the end of the test."""
    actors: list[Any] = []
    yield actors
    for actor in actors:
        ray.kill(actor)


def configured(inference: str, tmp_path: Path) -> RunConfig:
    """Return a case with two rollout workers that take a CPU each."""
    source = {"num_envs": 4, "rollout_workers": 2, "worker_cpus": 1, "inference": inference}
    return case("ppo", str(tmp_path), source=source)


def take_room(pool: Any, victims: list[int], occupants: list[Any], start_s: float = 8.0) -> None:
    """Kill workers while others wait for every CPU that is or becomes free, so that no successor finds room.

    From now on the supervisor waits `start_s` seconds for a process that is starting.
    """
    pool._supervisor._start_s = start_s
    occupants += [Occupant.options(num_cpus=1).remote() for _ in range(2 + len(victims))]
    answers = [actor.ready.remote() for actor in occupants]
    standing, _ = ray.wait(answers, num_returns=2, timeout=60)
    assert len(standing) == 2
    for process in pool.processes():
        if process.index in victims:
            os.kill(process.pid, signal.SIGKILL)
    # The pool asks for successors when it is used next: until then the others have all the room that there is.
    standing, missing = ray.wait(answers, num_returns=len(answers), timeout=120)
    assert not missing, "room is free that the test should have taken"


@pytest.mark.parametrize("inference", ["worker", "central"])
def test_the_others_go_on_without_a_worker_until_there_is_room(
    inference: str, tmp_path: Path, occupants: list[Any]
) -> None:
    config = configured(inference, tmp_path)
    with opened(config) as pool:
        pool.publish(0)
        before = pool.collect(10)
        assert [rollout.worker for rollout in before] == [0, 1]
        take_room(pool, [1], occupants)
        pool.collect(10)
        without = pool.collect(10)
        assert [rollout.worker for rollout in without] == [0]
        assert without[0].arrays["valid"].any()
        assert "there is no room for rollout worker 1: the others go on without it" in pool.events()
        pool.barrier()
        assert [saved["barriers"] for saved in pool.state_dict()["workers"]] == [1, 1]
        for _ in range(len(occupants)):
            ray.kill(occupants.pop())
        deadline = time.monotonic() + 60
        while len(found := pool.collect(10)) < 2:
            assert time.monotonic() < deadline
        assert "rollout worker 1 is back" in pool.events()
        back = found[1]
        assert back.worker == 1 and back.arrays["valid"].any()
        # Its process began before the barrier, but its episodes are of the seeds after it.
        number, first = environment_share(config, 1)
        environment = make_environment(config.source, number, first_index=first, worker=1)  # type: ignore[arg-type]
        expected = environment.reset(restart_seed(config.seed, 1, 1, pool._supervisor.workers[1].restarts))
        np.testing.assert_array_equal(back.arrays["observation"][0], expected)


@both
def test_a_supervisor_without_anybody_waits_for_the_first_who_is_back(
    inference: str, tmp_path: Path, occupants: list[Any]
) -> None:
    with opened(configured(inference, tmp_path)) as pool:
        pool.publish(0)
        pool.collect(10)
        take_room(pool, [0, 1], occupants, start_s=20.0)  # long enough for a process to start on a busy machine

        def make_room() -> None:
            deadline = time.monotonic() + 120
            while not all(worker.away for worker in pool._supervisor.workers):
                assert time.monotonic() < deadline
                time.sleep(0.1)
            for actor in occupants:
                ray.kill(actor)

        helper = threading.Thread(target=make_room)
        helper.start()
        rollouts = pool.collect(10)
        helper.join(120)
        occupants.clear()
        assert rollouts and all(rollout.arrays["valid"].any() for rollout in rollouts)
        assert all(rollout.restarted for rollout in rollouts), "the episodes before are over"
        assert pool.restarts >= 2


@both
def test_a_supervisor_without_anybody_gives_up(inference: str, tmp_path: Path, occupants: list[Any]) -> None:
    with opened(configured(inference, tmp_path)) as pool:
        pool.publish(0)
        pool.collect(10)
        take_room(pool, [0, 1], occupants)
        with pytest.raises(RoleTimeoutError, match=r"no room for any of rollout worker 0, rollout worker 1 for 8 s"):
            pool.collect(10)
