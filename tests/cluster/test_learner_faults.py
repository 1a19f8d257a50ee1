"""Learners and evaluators that die or hang: the run goes on from its last checkpoint as if nothing had happened."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

import rayloom
from cases import case
from cut_runs import assert_no_point_twice
from processes import history
from rayloom.cluster.nodes.connection import live_nodes
from rayloom.config.schema import RunConfig
from rayloom.errors import LearnersLostError, UserError
from rayloom.runs.observer import Observer, Report
from rayloom.tracking.journal import read_metrics

pytestmark = pytest.mark.xdist_group("ray")


def actors(kind: str) -> list[psutil.Process]:
    """Return the actors of a class that this test's Ray runs, youngest last."""
    found = [p for p in psutil.Process().children(recursive=True) if p.name().startswith(f"ray::{kind}")]
    return sorted(found, key=lambda process: process.create_time())


class Striker(Observer):
    """Does something at given reports of a run, counted from 1."""

    def __init__(self, deeds: dict[int, Callable[[], None]]) -> None:
        self.deeds = deeds
        self.reports = 0
        self.notes: list[str] = []

    def report(self, report: Report) -> None:
        self.reports += 1
        self.deeds.get(self.reports, lambda: None)()

    def note(self, text: str) -> None:
        self.notes.append(text)


def send(kind: str, number: int = signal.SIGKILL, place: int = -1) -> Callable[[], None]:
    def strike() -> None:
        deadline = time.monotonic() + 60
        while not (found := actors(kind)):
            assert time.monotonic() < deadline, f"there is no {kind}"
            time.sleep(0.05)
        os.kill(found[place].pid, number)

    return strike


def configured(name: str, output: Path, count: int, deadline_s: float = 60.0, **sections: dict[str, Any]) -> RunConfig:
    cluster = {"learner": "actor", "deadline_s": deadline_s, **sections.pop("cluster", {})}
    learner = {**sections.pop("learner", {}), "count": count}
    tracking = {"every": "1 updates"}
    return case(name, str(output), learner=learner, cluster=cluster, tracking=tracking, **sections)


@pytest.mark.usefixtures("one_node")
@pytest.mark.parametrize(
    ("name", "count", "number"),
    [
        ("softmax_regression", 2, signal.SIGKILL),
        pytest.param("ppo", 1, signal.SIGKILL, marks=pytest.mark.full),
        pytest.param("dqn_prioritized_n_step", 2, signal.SIGKILL, marks=pytest.mark.full),
        pytest.param("ppo", 2, signal.SIGSTOP, marks=pytest.mark.full),
    ],
)
def test_a_lost_learner_changes_nothing(name: str, count: int, number: int, tmp_path: Path) -> None:
    # PPO begins anew, for it has no checkpoint. Of the others one loss is survived between two checkpoints: the second
    # is because it comes after another checkpoint.
    settings: dict[str, Any] = {"checkpoint": {"every": "10 updates"}, "cluster": {"tries": 2}} if name != "ppo" else {}
    whole = Striker({})
    expected = rayloom.run(configured(name, tmp_path / "whole", count, **settings), observer=whole)
    deadline_s = 45.0 if number == signal.SIGSTOP else 60.0
    striker = Striker({25: send("LearnerActor", number), 45: send("LearnerActor", number, place=0)})
    result = rayloom.run(configured(name, tmp_path / "struck", count, deadline_s, **settings), observer=striker)
    assert sum("go on from the last checkpoint" in note for note in striker.notes) == 2, striker.notes
    if settings:
        assert whole.reports <= striker.reports <= whole.reports + 22, "what is done again is ten updates at most"
    assert result.weights_sha256 == expected.weights_sha256
    assert result.counters == expected.counters
    assert history(result.run_dir) == history(expected.run_dir)
    assert_no_point_twice(result.run_dir)
    assert max(value for _, key, value in read_metrics(result.run_dir) if key == "faults/learner_restarts") == 2


@pytest.mark.usefixtures("one_node")
def test_learners_that_are_lost_again_and_again_end_the_run(tmp_path: Path) -> None:
    probe = {"import": "search_cases:Probe", "fault": "exit", "l2": 0.1, "fault_above": 0.0, "fault_at": 20}
    striker = Striker({})
    with pytest.raises(LearnersLostError, match="the learner died"):
        rayloom.run(configured("softmax_regression", tmp_path, 1, algorithm=probe), observer=striker)
    assert sum("go on from the last checkpoint" in note for note in striker.notes) == 2
    assert not actors("LearnerActor")


@pytest.mark.usefixtures("one_node")
def test_a_lost_evaluator_changes_nothing(tmp_path: Path) -> None:
    tracking = {"every": "1 updates"}
    config = case("ppo", str(tmp_path), cluster={"evaluator": "actor"}, tracking=tracking)
    expected = rayloom.run(case("ppo", str(tmp_path / "whole"), tracking=tracking), local=True)
    striker = Striker({10: send("EvaluatorActor"), 40: send("EvaluatorActor")})
    result = rayloom.run(config, observer=striker)
    assert sum("the evaluator was replaced" in note for note in striker.notes) == 2
    assert history(result.run_dir) == history(expected.run_dir)


@pytest.fixture
def three_nodes() -> Iterator[Cluster]:
    """A head for the driver, and a node with one CPU for each of two learners."""
    ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    cluster.add_node(num_cpus=1)
    cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.full
@pytest.mark.parametrize("name", ["ppo", "softmax_regression", "dqn"])
def test_a_lost_node_costs_a_learner_and_a_new_one_brings_it_back(
    name: str, three_nodes: Cluster, tmp_path: Path
) -> None:
    def alive() -> int:
        return sum(node.alive for node in live_nodes())

    def lose() -> None:
        before, deadline = alive(), time.monotonic() + 60
        three_nodes.remove_node(next(iter(three_nodes.worker_nodes)), allow_graceful=False)
        # On a busy machine Ray takes the node for alive a while longer, and would offer its room again.
        while alive() == before:
            assert time.monotonic() < deadline, "the lost node is still alive to Ray"
            time.sleep(0.05)

    def join() -> None:
        three_nodes.add_node(num_cpus=1)
        deadline = time.monotonic() + 60
        # Ray hears of a new node's room a while later.
        while sum(node.free_cpus for node in live_nodes() if node.alive) < 1:
            assert time.monotonic() < deadline, "the new node has no room"
            time.sleep(0.05)

    striker = Striker({25: lose, 45: join})
    config = configured(name, tmp_path / "struck", 2, checkpoint={"every": "10 updates"})
    result = rayloom.run(config, observer=striker)
    expected = rayloom.run(replace(config, output=str(tmp_path / "whole"), learner=replace(config.learner, count=1)))
    fewer, more = [note for note in striker.notes if "go on from the last checkpoint" in note]
    assert "1 of 2 learners go on" in fewer
    assert "there is room for more learners: 2 of 2 learners go on" in more
    assert result.counters["updates"] == pytest.approx(expected.counters["updates"], rel=0.1)
    assert_no_point_twice(result.run_dir)
    if name == "softmax_regression":
        # K learners are one with the whole batch: what is lost is time alone.
        assert result.counters == expected.counters
        ours, theirs = (
            [value for _, key, value in read_metrics(each.run_dir) if key == "train/loss"]
            for each in (result, expected)
        )
        assert ours == pytest.approx(theirs, rel=1e-3)


def test_a_run_is_resumed_by_fewer_learners_on_a_smaller_cluster(three_nodes: Cluster, tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    config = configured("ppo", tmp_path, 2, checkpoint={"every": "10 updates"})
    with pytest.raises(KeyboardInterrupt):
        rayloom.run(config, observer=Striker({30: interrupt}))
    three_nodes.remove_node(next(iter(three_nodes.worker_nodes)), allow_graceful=False)
    with pytest.raises(UserError, match="learner"):
        rayloom.run(config)  # a new run gets what it asks for, or a sentence
    striker = Striker({})
    (folder,) = (path.parent for path in tmp_path.glob("*/config.yaml"))
    result = rayloom.resume(folder.name, output=str(tmp_path), observer=striker)
    assert "the cluster has room for 1 of 2 learners" in striker.notes
    assert result.stopped_by == "env_steps >= 1024" and result.counters["env_steps"] >= 1024
    assert_no_point_twice(result.run_dir)
