"""Workers of self-play by tree search as Ray actors, on one node and on two, play the games of one process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from cases import case
from equality_parts import WorkersHere
from rayloom import run
from rayloom.config.schema import RunConfig
from rayloom.runs.learner_role import LearnerRole
from rayloom.runs.schedule import Schedule

pytestmark = pytest.mark.xdist_group("ray")


@pytest.fixture
def two_nodes() -> Iterator[Cluster]:
    """Have a cluster on loopback whose nodes have room for one worker each."""
    ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def played_alike(config: RunConfig, updates: int) -> None:
    """Check that a run on Ray ends with the weights and games of one process."""
    here = LearnerRole(config, WorkersHere)
    here.advance(Schedule({}, {"updates": updates}))
    on_ray = run(config)
    assert on_ray.counters == {"updates": updates, **here.counters()}
    assert on_ray.weights_sha256 == here.weights_sha256()
    here.close()


def of_tree_search(tmp_path: Path, **source: Any) -> RunConfig:
    """Return a run whose barriers change nothing: Gumbel search keeps no tree from move to move."""
    settings = {"rollout_workers": 2, "search": {"method": "gumbel", "simulations": 6}, **source}
    return case("alphazero", str(tmp_path), source=settings, stop={"updates": 20}, evaluate={"every": None})


@pytest.mark.usefixtures("one_node")
def test_two_actors_play_the_games_of_one_process(tmp_path: Path) -> None:
    played_alike(of_tree_search(tmp_path, worker_cpus=0.5), 20)


@pytest.mark.usefixtures("one_node")
def test_the_pool_of_earlier_policies_reaches_the_actors(tmp_path: Path) -> None:
    source = {"rollout_workers": 2, "worker_cpus": 0.5}
    stop = {"updates": 20}
    played_alike(
        case("policy_gradient_self_play", str(tmp_path), source=source, stop=stop, evaluate={"every": None}), 20
    )


def test_two_nodes_play_the_games_of_one_process(two_nodes: Cluster, tmp_path: Path) -> None:
    """Each worker needs a whole CPU, and no node has two."""
    played_alike(of_tree_search(tmp_path, worker_cpus=1), 20)
