"""Where the time of learners and rollout workers in Ray goes, and the advice that follows from it."""

from __future__ import annotations

from pathlib import Path

import pytest

import rayloom
from cases import case
from rayloom.runs import advice
from sleepy_runs import SLEEPS, Watcher, check_advice, check_sums, dominates, shares, sleepy

pytestmark = pytest.mark.xdist_group("ray")
ROLES = ("learner", "rollout", "driver")


@pytest.fixture
def talkative(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give advice to short runs too."""
    monkeypatch.setattr(advice, "SHORTEST_S", 0.0)


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
