"""Roles on the nodes of a cluster: several Ray nodes on this machine, with GPUs that are only counted."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray import cloudpickle
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

import rayloom
from cases import case
from processes import write_config
from rayloom.cluster.nodes import placement as placement_module
from rayloom.cluster.nodes.connection import check_room, connect, live_nodes, search_path
from rayloom.cluster.nodes.gpu_assignment import confirm_assignment
from rayloom.cluster.nodes.packing import Node
from rayloom.cluster.nodes.placement import Placement, fit, neighbours
from rayloom.cluster.pools.rollout_actor import RolloutActor
from rayloom.cluster.role_actors import EvaluatorActor, LearnerActor
from rayloom.config.schema import RunConfig
from rayloom.errors import UserError
from rayloom.runs.plan import Bundle, make_plan

pytestmark = pytest.mark.xdist_group("ray")


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[Cluster]:
    """Start three nodes: 2 CPUs; 4 CPUs and 2 GPUs; 4 CPUs and 1 GPU."""
    ray.shutdown()
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 0, "include_dashboard": False})
    nodes.add_node(num_cpus=4, num_gpus=2)
    nodes.add_node(num_cpus=4, num_gpus=1)
    ray.init(address=nodes.address, log_to_driver=False)
    yield nodes
    ray.shutdown()
    nodes.shutdown()


def on_gpus(output: str = "rayloom-runs", **sections: dict[str, Any]) -> RunConfig:
    """Return a run of two learners with rollout workers; its GPUs are reserved and not used."""
    learner = {"count": 2, "device": "cpu", "gpus": 0.5, **sections.pop("learner", {})}
    source = {"rollout_workers": 2, "worker_cpus": 0.5, **sections.pop("source", {})}
    return case("ppo", output, learner=learner, source=source, **sections)


def placed(config: RunConfig) -> Placement:
    return Placement.make(make_plan(config), config)


@ray.remote
class Actor:
    """Says what it has."""

    def look(self) -> dict[str, Any]:
        context = ray.get_runtime_context()
        return {"node": context.get_node_id(), "gpus": ray.get_gpu_ids(), "reserved": context.get_assigned_resources()}

    def confirm(self, gpus: float, device: str) -> None:
        confirm_assignment("the actor", gpus, torch.device(device))

    def place_within(self, tree_config: RunConfig) -> tuple[bool, dict[str, Any]]:
        placement = Placement.make(make_plan(tree_config), tree_config)
        return placement.group is None, placement.options("rollout", 1)


def inhabit(placement: Placement, *actors: tuple[str, int]) -> list[Any]:
    return [Actor.options(**placement.options(role, index)).remote() for role, index in actors]  # type: ignore[attr-defined]


def end(*actors: Any) -> None:
    for actor in actors:
        ray.kill(actor)


# --- groups --------------------------------------------------------------------------------------------------------


def test_actors_get_what_the_plan_says_and_give_it_back() -> None:
    config = on_gpus(source={"worker_cpus": 0}, cluster={"placement": "strict_pack", "evaluator": "actor"})
    before = sum(node.free_cpus for node in live_nodes())
    placement = cloudpickle.loads(cloudpickle.dumps(placed(config)))
    actors = inhabit(placement, ("learner", 0), ("learner", 1), ("rollout", 0), ("rollout", 1), ("evaluator", 0))
    seen = ray.get([actor.look.remote() for actor in actors])
    assert len({look["node"] for look in seen}) == 1
    assert [len(look["gpus"]) for look in seen] == [1, 1, 0, 0, 0]
    assert sorted(node.cpus - node.free_cpus for node in live_nodes()) == [0, 0, 3]
    room = placement.room()
    assert sum(node.cpus for node in room) == before and sum(node.gpus for node in room) == 3
    # A successor starts where the one before it was.
    end(actors[3])
    successor = inhabit(placement, ("rollout", 1))[0]
    assert ray.get(successor.look.remote())["node"] == seen[3]["node"]
    placement.remove()
    placement.remove()
    assert _eventually(lambda: sum(node.free_cpus for node in live_nodes()) == before)


def _eventually(condition: Any, deadline_s: float = 20.0) -> bool:
    deadline = time.monotonic() + deadline_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(condition())


def test_spread_rollout_workers_lie_beside_their_learner() -> None:
    config = on_gpus(learner={"gpus": 1}, source={"rollout_workers": 4}, cluster={"placement": "spread"})
    placement = placed(config)
    assert placement.group is not None
    node_of = ray.util.placement_group_table(placement.group)["bundles_to_node_id"]
    indices = [("learner", 0), ("learner", 1), *(("rollout", index) for index in range(4))]
    nodes = [node_of[placement.positions[actor]] for actor in indices]
    assert nodes[0] != nodes[1]
    # Three nodes for six actors: two each, so that every learner has one of its two workers beside it.
    assert all(nodes[learner] in (nodes[2 + 2 * learner], nodes[3 + 2 * learner]) for learner in (0, 1))
    placement.remove()


def test_neighbours_exchange_bundles_and_lose_none() -> None:
    bundles = [Bundle("learner", i, 1, 0) for i in range(2)] + [Bundle("rollout", i, 1, 0) for i in range(4)]
    positions = neighbours(bundles, ["a", "b", "b", "b", "a", "c"])
    assert sorted(positions.values()) == [0, 1, 2, 3, 4, 5]
    assert positions["learner", 0] == 0 and positions["learner", 1] == 1
    assert (positions["rollout", 0], positions["rollout", 1]) == (4, 5)
    assert {positions["rollout", 2], positions["rollout", 3]} == {2, 3}


def test_inside_another_group_there_is_no_new_one() -> None:
    group = ray.util.placement_group([{"CPU": 1}, {"CPU": 1}])
    strategy = PlacementGroupSchedulingStrategy(group, placement_group_capture_child_tasks=True)
    actor = Actor.options(num_cpus=1, scheduling_strategy=strategy).remote()  # type: ignore[attr-defined]
    alone, options = ray.get(actor.place_within.remote(case("ppo", source={"rollout_workers": 2})), timeout=60)
    assert alone and options == {"num_cpus": 1, "num_gpus": 0, "max_restarts": 0, "enable_task_events": False}
    end(actor)
    ray.util.remove_placement_group(group)


# --- no room -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        (
            {"cluster": {"placement": "strict_spread"}},
            r"strict_spread wants a node for each of 4 actors and the clus.* 3",
        ),
        ({"learner": {"gpus": 3}}, r"learner 0 needs 3 GPUs on one node and the largest node has 2"),
        ({"learner": {"gpus": 2}}, r"reserves 4 GPUs \(2 learners 4\) but the cluster has 3"),
        ({"learner": {"cpus": 5}}, r"learner 0 needs 5 CPUs on one node and the largest node has 4"),
        ({"source": {"worker_cpus": 3, "rollout_workers": 2}, "learner": {"cpus": 3, "gpus": 0}}, "12 CPUs.*has 10"),
        ({"cluster": {"placement": "strict_pack"}, "learner": {"cpus": 2}}, "strict_pack wants one node for all"),
    ],
)
def test_a_plan_that_never_fits_ends_at_once(sections: dict[str, dict[str, Any]], words: str) -> None:
    begin = time.monotonic()
    with pytest.raises(UserError, match=words):
        placed(on_gpus(**sections))
    assert time.monotonic() - begin < 30  # and not cluster.deadline_s, which is 120 s


def test_a_run_that_does_not_fit_ends_with_the_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="learner 0 needs 3 GPUs on one node"):
        rayloom.run(on_gpus(str(tmp_path), learner={"gpus": 3}, cluster={"address": "auto"}))
    assert not list(tmp_path.iterdir())


def test_what_others_hold_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement_module, "_PATIENCE_S", 0.0)
    config = on_gpus(learner={"gpus": 1, "count": 2}, cluster={"placement": "pack", "deadline_s": 3})
    other = placed(config)
    plan, notes = make_plan(config), []
    with pytest.raises(UserError, match=r"2 GPUs \(of the cluster's 3, 2 are taken\).*for 3 s \(cluster\.deadline_s\)"):
        Placement.make(plan, config, notes.append)
    assert len(notes) == 1 and "2 are taken" in notes[0] and "waiting for up to 3 s" in notes[0]
    # The request that was given up is not in the way of the next, which gets what the other gives back.
    patient = on_gpus(learner={"gpus": 1}, cluster={"deadline_s": 60})

    def give_back(text: str) -> None:
        notes.append(text)
        other.remove()

    Placement.make(make_plan(patient), patient, give_back).remove()
    assert len(notes) == 2


# --- actors --------------------------------------------------------------------------------------------------------


def test_an_actor_confirms_its_assignment(monkeypatch: pytest.MonkeyPatch) -> None:
    bare, holder = Actor.remote(), Actor.options(num_gpus=1, num_cpus=0).remote()  # type: ignore[attr-defined]
    ray.get([bare.confirm.remote(0, "cpu"), holder.confirm.remote(1, "cpu")])
    with pytest.raises(RuntimeError, match=r"the actor was promised 1 GPUs and Ray has assigned none"):
        ray.get(bare.confirm.remote(1, "cpu"))
    with pytest.raises(RuntimeError, match=r"the actor was promised 0 GPUs and Ray has assigned \[\d\]"):
        ray.get(holder.confirm.remote(0, "cpu"))
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match=r"which torch cannot use there"):
            ray.get(holder.confirm.remote(1, "cuda"))
    end(bare, holder)


def test_torch_threads_of_each_role() -> None:
    config = case(
        "ppo",
        learner={"threads": 3, "cpus": 0.5, "device": "cpu"},
        source={"rollout_workers": 1, "worker_cpus": 0.5},
        cluster={"learner": "actor", "evaluator": "actor", "evaluator_cpus": 0.5},
    )

    class Rollout(RolloutActor):
        def threads(self) -> int:
            return torch.get_num_threads()

    class Learner(LearnerActor):
        def threads(self) -> int:
            return torch.get_num_threads()

    class Evaluating(EvaluatorActor):
        def threads(self) -> int:
            return torch.get_num_threads()

    placement, tree = placed(config), config.to_tree()
    made = {
        "learner": (Learner, (tree, False, search_path(), 0, placement)),
        "rollout": (Rollout, (tree, 0, search_path(), 0, 0, config.source_class().describe(config.source))),
        "evaluator": (Evaluating, (tree, search_path())),
    }
    actors = {
        role: ray.remote(kind).options(**placement.options(role, 0)).remote(*arguments)  # type: ignore[arg-type]
        for role, (kind, arguments) in made.items()
    }
    threads = {role: ray.get(actor.threads.remote(), timeout=120) for role, actor in actors.items()}
    assert threads == {"learner": 3, "rollout": 1, "evaluator": 3}
    placement.remove()


@pytest.mark.full
def test_a_run_on_fractions_of_gpus_equals_one_without(cluster: Cluster, tmp_path: Path) -> None:
    given = {"evaluator": "actor", "evaluator_cpus": 0.5, "evaluator_gpus": 0.25, "address": cluster.address}
    result = rayloom.run(on_gpus(str(tmp_path), source={"worker_gpus": 0.25}, cluster=given))
    plain = rayloom.run(case("ppo", str(tmp_path), learner={"count": 2}))
    assert result.status == "FINISHED" and result.weights_sha256 == plain.weights_sha256
    assert _eventually(lambda: sum(node.free_gpus for node in live_nodes()) == 3)


# --- fewer learners ------------------------------------------------------------------------------------------------


def _machines(count: int, cpus: float, gpus: float = 0) -> list[Node]:
    return [Node("10.0.0.1", cpus, gpus, cpus, gpus) for _ in range(count)]


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        (_machines(2, 4), (4, 4)),
        (_machines(1, 5), (2, 2)),  # 3 learners do not share 8 environments
        (_machines(1, 7), (2, 4)),
        (_machines(1, 3), (1, 2)),
        (_machines(1, 2), (1, 1)),
        (_machines(1, 1), None),
        ([], None),
    ],
)
def test_as_many_learners_as_there_is_room_for(nodes: list[Node], expected: tuple[int, int] | None) -> None:
    source = {"rollout_workers": 4, "num_envs": 8}
    config = case("ppo", learner={"count": 4, "batch_size": 32}, source=source)
    smaller = fit(config, nodes)
    if expected is None:
        assert smaller is None
        return
    assert smaller is not None
    assert (smaller.learner.count, smaller.source.rollout_workers) == expected  # type: ignore[union-attr]
    assert make_plan(smaller).role("learner").place == "actor"
    if expected == (4, 4):
        assert smaller.source == config.source and smaller.learner == config.learner


def test_what_others_hold_is_no_room() -> None:
    config = case("softmax_regression", learner={"count": 2})
    node = Node("10.0.0.1", cpus=2, gpus=0, free_cpus=1, free_gpus=0)
    whole, present = fit(config, [node]), fit(config, [node.freed()])
    assert whole is not None and whole.learner.count == 2
    assert present is not None and present.learner.count == 1


# --- rayloom show, and addresses where no cluster is ---------------------------------------------------------------


def show(config: RunConfig, folder: Path, address: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rayloom", "show", str(write_config(config, folder))]
    environment = {**os.environ, "RAY_ADDRESS": address}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, cwd=folder, check=False
    )


def test_show_says_which_actor_would_go_where(cluster: Cluster, tmp_path: Path) -> None:
    config = on_gpus(str(tmp_path), learner={"gpus": 2, "count": 1}, cluster={"learner": "actor"})
    shown = show(config, tmp_path, cluster.address)
    assert shown.returncode == 0, shown.stderr
    table = shown.stdout.partition("# cluster at")[2]
    ids = {node.gpus: node.node_id[:8] for node in live_nodes()}
    assert all(node_id in table.partition("# placement")[0] for node_id in ids.values())
    line = next(line for line in table.partition("# placement")[2].splitlines() if "learner" in line)
    assert ids[2.0] in line and line.endswith("learner 0, rollout workers 0-1")


def test_show_prints_the_plan_and_what_is_missing(cluster: Cluster, tmp_path: Path) -> None:
    shown = show(on_gpus(str(tmp_path), learner={"gpus": 3}), tmp_path, cluster.address)
    assert shown.returncode == 2
    assert "# plan (starts Ray)" in shown.stdout and "# cluster at" in shown.stdout and "no room" in shown.stdout
    assert shown.stderr.strip().startswith("rayloom: learner 0 needs 3 GPUs on one node and the largest node has 2")
    assert len(shown.stderr.strip().splitlines()) == 1


def test_show_where_no_cluster_answers(tmp_path: Path) -> None:
    shown = show(on_gpus(str(tmp_path)), tmp_path, "127.0.0.1:1")
    assert shown.returncode == 2 and "# plan" in shown.stdout
    assert shown.stderr.strip().startswith("rayloom: cluster.address: no Ray cluster answers at 127.0.0.1:1 (")
    assert len(shown.stderr.strip().splitlines()) == 1


def test_a_port_that_is_not_rays_is_named() -> None:
    server = HTTPServer(("127.0.0.1", 0), type("Quiet", (BaseHTTPRequestHandler,), {"log_message": lambda *a: None}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(UserError, match=rf"port {server.server_port} is not Ray's; it is 6379 unless told"):
            connect(f"127.0.0.1:{server.server_port}", 2)
    finally:
        server.shutdown()
        server.server_close()


def test_where_an_autoscaler_may_start_nodes_a_large_plan_waits(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = on_gpus(learner={"gpus": 3}, cluster={"deadline_s": 2})
    bundles = make_plan(config).bundles()
    with pytest.raises(UserError, match="needs 3 GPUs on one node"):
        check_room(bundles, config)
    monkeypatch.setenv("RAY_NODE_TYPE_NAME", "rollouts")  # as cluster launchers and KubeRay do
    node = cluster.add_node(num_cpus=1)
    try:
        assert _eventually(lambda: any(node.group == "rollouts" for node in live_nodes()))
        check_room(bundles, config)
        with pytest.raises(UserError, match=r"nodes that have been started \(learner 0 needs 3 GPUs .*for 2 s"):
            placed(config)
    finally:
        cluster.remove_node(node)
