"""Where the time goes: every second is counted once, and percentages follow."""

from __future__ import annotations

import pytest
import torch

from rayloom import timeline
from rayloom.learner.group import SingleLearner, TimedGroup
from rayloom.timeline import RunTimeline, Spent, Timeline, as_metrics, is_percentage, percentages


class Clock:
    """Stands until it is moved; takes the place of the module `time`."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Move the timelines' clock by hand."""
    clock = Clock()
    monkeypatch.setattr(timeline, "time", clock)
    return clock


def test_a_timeline_counts_every_second_once(clock: Clock) -> None:
    own = Timeline()
    clock.now += 1
    assert own.begin("learn") == "other"
    clock.now += 4
    assert own.begin("sample") == "learn"
    clock.now += 2
    own.begin("learn")
    clock.now += 8
    assert own.read() == {"other": 1, "learn": 12, "sample": 2}
    clock.now += 16
    assert own.drain() == {"other": 1, "learn": 28, "sample": 2}
    clock.now += 32
    assert own.drain() == {"learn": 32}, "what goes on is not forgotten"


def test_parts_of_an_activity_can_be_counted_apart(clock: Clock) -> None:
    own = Timeline("sample")
    clock.now += 10
    own.begin("learn")
    own.split("sample", {"step": 6.0, "inference": 3.0, "wait": 0.0})
    own.split("sample", {"step": 0.5})
    assert own.drain() == {"sample": 0.5, "step": 6.5, "inference": 3.0, "wait": 0.0, "learn": 0}


def test_sums_over_learners_count_as_reduce_wherever_they_happen(clock: Clock) -> None:
    class Slow(SingleLearner):
        rank, world_size = 1, 3

        def all_reduce(self, tensor: torch.Tensor) -> None:
            clock.now += 5
            tensor.mul_(3)

    own = Timeline("learn")
    group = TimedGroup(Slow(), own)
    tensor = torch.ones(2)
    group.all_reduce(tensor)
    clock.now += 1
    assert (group.rank, group.world_size, tensor.tolist(), group.sum_counts([7])) == (1, 3, [3.0, 3.0], [7])
    assert own.drain() == {"learn": 1, "reduce": 5}


def test_percentages() -> None:
    assert percentages({"step": 3.0, "wait": 1.0, "other": 0.0}) == {"step": 75, "wait": 25, "other": 0}
    assert percentages({"other": 5.0}) == percentages({}) == percentages({"learn": 0.0}) == {}
    assert percentages({"sample": -0.001, "learn": 1.001})["sample"] == 0
    assert as_metrics("rollout", {"step": 1.0, "wait": 3.0}) == {
        "time/rollout_step_percent": 25,
        "time/rollout_wait_percent": 75,
    }
    assert is_percentage("time/rollout_step_percent")
    assert not any(map(is_percentage, ("time/wait_fraction", "train/rollout_step_percent", "time/updates")))


def test_the_run_adds_up_what_all_log_steps_tell(clock: Clock) -> None:
    driver = RunTimeline()
    driver.begin("train")
    clock.now += 6
    driver.begin("log")
    clock.now += 2
    first = {**as_metrics("learner", {"learn": 1, "wait": 3}), "train/loss": 5.0, "throughput/env_steps_per_s": 10.0}
    assert driver.log(first) == {
        "time/driver_other_percent": 0,
        "time/driver_train_percent": 75,
        "time/driver_log_percent": 25,
    }
    driver.begin("train")
    clock.now += 24
    driver.begin("log")
    second = {**as_metrics("learner", {"learn": 3, "wait": 1}), **as_metrics("rollout", {"step": 1, "wait": 0})}
    assert driver.log(second)["time/driver_train_percent"] == 100
    driver.begin("checkpoint")
    clock.now += 8
    spent = driver.spent()
    # 8 s at 25 % and 24 s at 75 % are 20 s of 32; the driver's checkpoint comes after the last log step.
    assert spent.seconds == 40 and spent.env_steps == 80
    assert spent.percent == {
        "learner": {"learn": 62.5, "wait": 37.5},
        "rollout": {"step": 100, "wait": 0},
        "driver": {"other": 0, "train": 75, "log": 5, "checkpoint": 20},
    }
    assert spent.share("driver", "checkpoint") == 20 and spent.share("rollout", "learn") == 0
    assert Spent(1.0, {}).share("learner", "wait") == 0
