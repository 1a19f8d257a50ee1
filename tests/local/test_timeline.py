"""Where the time goes: sums by activity, their percentages in the metrics, and the advice that follows from them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import rayloom
from cases import case
from rayloom import timeline
from rayloom.config.load import from_tree
from rayloom.config.schema import RunConfig
from rayloom.learner.group import SingleLearner, TimedGroup
from rayloom.runs import advice
from rayloom.runs.observer import Observer, Report, Result
from rayloom.timeline import RunTimeline, Spent, Timeline, as_metrics, is_percentage, percentages
from rayloom.tracking.journal import read_metrics

pytestmark = pytest.mark.xdist_group("ray")
ROLES = ("learner", "rollout", "driver")


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


# --- runs of which it is known where their time goes -----------------------------------------------------------------

SLEEPS: dict[str, dict[str, dict[str, Any]]] = {
    "step": {"source": {"env_options": {"step_s": 0.02}}},
    "inference": {"algorithm": {"act_s": 0.03}},
    "learn": {"algorithm": {"loss_s": 0.4}},
}


class Watcher(Observer):
    """Keeps the metrics of every report."""

    def __init__(self) -> None:
        self.reports: list[dict[str, float]] = []

    def report(self, report: Report) -> None:
        self.reports.append(report.metrics)


def sleepy(asleep: str, output: Path, **source: Any) -> RunConfig:
    """Return a run of 8 rollouts of 16 steps in 2 environments that sleeps for 3 seconds or more in one place."""
    sections = SLEEPS[asleep]
    tree: dict[str, Any] = {
        "name": f"sleepy_{asleep}",
        "output": str(output),
        "algorithm": {"import": "slow_parts:SlowPPO", "hidden_sizes": [8], **sections.get("algorithm", {})},
        "source": {
            "kind": "on_policy",
            "env": "slow_parts:Sleepy-v0",
            "num_envs": 2,
            "rollout_steps": 16,
            "epochs": 1,
            **sections.get("source", {}),
            **source,
        },
        "learner": {"batch_size": 32},
        "evaluate": {"episodes": 1},
        "checkpoint": {"every": "256 env_steps"},
        "tracking": {"enabled": False, "system_metrics": False, "every": "4 updates"},
        "stop": {"env_steps": 256},
    }
    return from_tree(tree)


@pytest.fixture
def talkative(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give advice to short runs too."""
    monkeypatch.setattr(advice, "SHORTEST_S", 0.0)


def shares(metrics: dict[str, float], role: str) -> dict[str, float]:
    """Return a role's percentages by activity."""
    start = f"time/{role}_"
    return {name[len(start) : -8]: value for name, value in metrics.items() if name.startswith(start)}


def check_sums(watcher: Watcher, roles: tuple[str, ...]) -> None:
    assert len(watcher.reports) >= 2
    for metrics in watcher.reports:
        for role in roles:
            assert sum(shares(metrics, role).values()) == pytest.approx(100, abs=1), (role, metrics)


def dominates(shared: dict[str, float], activity: str) -> None:
    """Check for more than half of the time: on an idle machine it is 90 %, and a busy one must not fail the test."""
    assert shared[activity] > 50, shared


@pytest.mark.parametrize(
    ("asleep", "advised"),
    [
        ("step", r"environments took \d+ % of the learner's time: raise source.rollout_workers \(now 0\)"),
        ("inference", r"inference took \d+ % of the learner's time: raise source.num_envs \(now 2\)"),
        ("learn", None),
    ],
    ids=SLEEPS,
)
@pytest.mark.usefixtures("talkative")
def test_one_process_knows_what_it_does(asleep: str, advised: str | None, tmp_path: Path) -> None:
    watcher = Watcher()
    result = rayloom.run(sleepy(asleep, tmp_path), local=True, observer=watcher)
    check_sums(watcher, ("learner", "driver"))
    learner = shares(result.metrics, "learner")
    assert set(learner) == {"step", "inference", "sample", "learn", "wait", "other"} and learner["wait"] == 0
    assert not shares(result.metrics, "rollout")
    # Metrics are of the second half of the run, when everything is warm.
    dominates(learner, asleep)
    dominates(shares(result.metrics, "driver"), "train")
    check_advice(result, advised)


def check_advice(result: Result, advised: str | None) -> None:
    assert result.advice is None if advised is None else re.match(advised, result.advice or ""), result.advice
    written = json.loads((result.run_dir / "result.json").read_text())
    assert written["advice"] == result.advice
    journal = [json.loads(line) for line in (result.run_dir / "journal.jsonl").read_text().splitlines()]
    tags = {key: value for record in journal for key, value in record.get("tags", {}).items()}
    assert tags.get("rayloom.runs.advice") == result.advice and tags["rayloom.stopped_by"] == result.stopped_by


@pytest.mark.usefixtures("talkative")
def test_a_run_on_a_data_set_has_no_rollouts_and_nothing_to_wait_for(tmp_path: Path) -> None:
    result = rayloom.run(case("softmax_regression", str(tmp_path)), local=True)
    names = sorted(name for name in result.metrics if is_percentage(name))
    assert names == [
        *(f"time/driver_{activity}_percent" for activity in ("checkpoint", "evaluate", "log", "other", "train")),
        *(f"time/learner_{activity}_percent" for activity in ("learn", "other", "sample", "wait")),
    ]
    assert result.metrics["time/learner_wait_percent"] == 0


def test_short_runs_get_no_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advice, "SHORTEST_S", 600.0)
    assert rayloom.run(sleepy("step", tmp_path), local=True).advice is None


def test_every_log_step_is_in_the_journal(tmp_path: Path) -> None:
    result = rayloom.run(sleepy("learn", tmp_path), local=True)
    points = [(step, key) for step, key, _ in read_metrics(result.run_dir) if key == "time/learner_learn_percent"]
    assert points == [(128, "time/learner_learn_percent"), (256, "time/learner_learn_percent")]


@pytest.mark.usefixtures("one_node")
def test_learners_show_their_mean_and_what_adding_up_takes(tmp_path: Path) -> None:
    watcher = Watcher()
    result = rayloom.run(case("softmax_regression", str(tmp_path), learner={"count": 2}), observer=watcher)
    check_sums(watcher, ("learner", "driver"))
    learner = shares(result.metrics, "learner")
    assert set(learner) == {"sample", "learn", "reduce", "wait", "other"} and learner["reduce"] > 0


@pytest.mark.parametrize(
    ("asleep", "learner", "rollout", "advised"),
    [
        ("step", "wait", "step", r"the learner waited \d+ % of the time for rollouts: raise source.rollout_workers"),
        ("inference", "wait", "inference", r"inference took \d+ % of the rollout workers' time"),
        ("learn", "learn", "wait", r"the rollout workers were idle \d+ % of the time, the learner is the bottleneck"),
    ],
    ids=SLEEPS,
)
@pytest.mark.usefixtures("one_node", "talkative")
def test_rollout_workers_and_their_learner_know_who_waits_for_whom(
    asleep: str, learner: str, rollout: str, advised: str, tmp_path: Path
) -> None:
    watcher = Watcher()
    result = rayloom.run(sleepy(asleep, tmp_path, rollout_workers=2), observer=watcher)
    check_sums(watcher, ROLES)
    workers = shares(result.metrics, "rollout")
    assert set(workers) == {"step", "inference", "transfer", "wait", "other"}
    assert set(shares(result.metrics, "learner")) == {"sample", "learn", "wait", "other"}
    dominates(shares(result.metrics, "learner"), learner)
    dominates(workers, rollout)
    check_advice(result, advised)
