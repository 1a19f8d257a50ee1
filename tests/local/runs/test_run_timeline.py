"""Where the time of a run in one process goes: percentages in the metrics, and the advice that follows from them."""

from __future__ import annotations

from pathlib import Path

import pytest

import rayloom
from cases import case
from rayloom.runs import advice
from rayloom.timeline import is_percentage
from rayloom.tracking.journal import read_metrics
from sleepy_runs import SLEEPS, Watcher, check_advice, check_sums, dominates, shares, sleepy


@pytest.fixture
def talkative(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give advice to short runs too."""
    monkeypatch.setattr(advice, "SHORTEST_S", 0.0)


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
