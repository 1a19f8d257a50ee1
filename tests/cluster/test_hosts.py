"""A run on two hosts: the same numbers as on one, and a link between them that is cut in the middle."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import rayloom
from cases import case
from hosts import Hosts, two_hosts
from processes import journal_lines, write_config
from rayloom.config.schema import RunConfig
from tracking_store import wait_for

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.full, pytest.mark.timeout(900)]


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with two_hosts() as both:
        yield both


def spread(config: RunConfig, hosts: Hosts) -> RunConfig:
    """Return the config with its roles on both hosts."""
    cluster = replace(config.cluster, address=hosts.ray_address, placement="spread", deadline_s=45.0)
    return replace(config, cluster=cluster)


def finished(process: Any) -> tuple[dict[str, Any], str]:
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err[-6000:]
    return json.loads(out.strip().splitlines()[-1]), err


def learners(output: Path) -> RunConfig:
    """Return a run of two learners that takes about half a minute."""
    sections: dict[str, Any] = {"learner": {"count": 2}, "stop": {"epochs": 120}, "tracking": {"every": "2 epochs"}}
    return case("softmax_regression", str(output), **sections)


@pytest.mark.parametrize("link", ["whole", "cut"])
def test_learners_on_two_hosts_end_where_those_on_one_do(link: str, hosts: Hosts, tmp_path: Path) -> None:
    config = learners(tmp_path / "runs")
    process = hosts.run(write_config(spread(config, hosts), tmp_path), tmp_path)
    for host in (hosts.first, hosts.second):
        wait_for(lambda host=host: len(host.running("ray::LearnerActor")) == 1, f"a learner on {host.address}")
    wait_for(lambda: journal_lines(tmp_path / "runs") >= 5, "the first metrics")
    if link == "cut":
        hosts.cut()
    result, err = finished(process)
    assert ("1 of 2 learners go on from the last checkpoint" in err) == (link == "cut"), err
    quiet = rayloom.run(learners(tmp_path / "quiet"))
    assert result["counters"] == quiet.counters
    if link == "whole":
        assert result["weights_sha256"] == quiet.weights_sha256
    for key in ("evaluate/loss", "evaluate/accuracy"):  # one learner adds up in another order than two
        assert result["metrics"][key] == pytest.approx(quiet.metrics[key], rel=1e-4), key
    assert not hosts.first.running("ray::LearnerActor")
    if link == "cut":  # cut off, the second host ends its part of the run on its own
        deadline = time.monotonic() + 180
        while hosts.second.running("ray::LearnerActor"):
            assert time.monotonic() < deadline, "a learner is left behind"
            time.sleep(1.0)


@pytest.mark.parametrize("name", ["ppo", "dqn_ahead"])
def test_a_run_goes_on_without_the_rollout_workers_of_a_lost_host(name: str, hosts: Hosts, tmp_path: Path) -> None:
    config = case(
        name,
        str(tmp_path / "runs"),
        source={"rollout_workers": 2, "worker_cpus": 1},
        stop={"env_steps": 20_000},
        tracking={"every": "500 env_steps"},
    )
    process = hosts.run(write_config(spread(config, hosts), tmp_path), tmp_path)
    for host in (hosts.first, hosts.second):
        wait_for(lambda host=host: host.running("ray::RolloutActor"), f"a rollout worker on {host.address}")
    wait_for(lambda: journal_lines(tmp_path / "runs") >= 5, "the first metrics")
    hosts.cut()
    result, err = finished(process)
    assert result["stopped_by"] == "env_steps >= 20000"
    assert "was replaced" in err, err
    assert not hosts.first.running("ray::RolloutActor")
