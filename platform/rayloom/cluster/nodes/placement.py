"""Where the actors of a run lie: a placement group with a bundle for each of them.

    Plan --bundles--> room on the live nodes? --> placement group --> options of each actor (and of its successors)

All or nothing: two runs that each hold half of a cluster and wait for the other half cannot be. A bundle outlives its
actor, so that a replacement starts in the place of the one that died; when a node dies, Ray moves its bundles to other
nodes as soon as there is room.

`cluster.placement` is Ray's strategy. pack fills the node with most room, actors with GPUs first, before it goes to the
next: with one node everything is together, with several the learners are, and rollout workers follow where CPUs are
left. spread takes all nodes in turn, which gives every learner rollout workers on its own node. Among the bundles that
Ray has given to rollout workers, those on the node of a learner become that learner's, whatever the strategy.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.util.placement_group import (
    PlacementGroup,
    get_current_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rayloom.cluster.nodes.connection import check_room, live_nodes
from rayloom.cluster.nodes.packing import Node, fits, shortfall
from rayloom.config.schema import RunConfig
from rayloom.config.shares import learner_share
from rayloom.errors import UserError
from rayloom.runs.plan import Bundle, Plan, make_plan

_PAUSE_S = 1.0
_PATIENCE_S = 5.0
_NOTHING = {"memory": 1.0}
"""What the bundle of an actor that reserves nothing holds, since Ray refuses an empty one: a byte."""
LONG_LIVED = {"max_restarts": 0, "enable_task_events": False}
"""Options of actors that are called some hundred times a second for hours: Ray's head would keep a record of each call,
some hundred MiB in all before it forgets the oldest."""
_log = logging.getLogger(__name__)


@dataclass
class Placement:
    """Where the actors of a run lie: one placement group with a bundle for each actor. Picklable."""

    resources: Mapping[str, tuple[float, float]]
    """CPUs and GPUs of an actor of each role."""
    group: PlacementGroup | None = None
    """None inside another placement group, whose bundles the actors take."""
    positions: Mapping[tuple[str, int], int] = field(default_factory=dict)
    """Role and index to the group's bundle."""

    @classmethod
    def make(cls, plan: Plan, config: RunConfig, note: Callable[[str], None] = _log.warning) -> Placement:
        """Reserve what the plan's actors need; wait at most `cluster.deadline_s` for what others use, with a note.

        UserError in one sentence when the cluster has no room: at once when it never could have.
        """
        bundles = plan.bundles()
        resources: dict[str, tuple[float, float]] = {bundle.role: (bundle.cpus, bundle.gpus) for bundle in bundles}
        if not bundles or get_current_placement_group() is not None:
            return cls(resources)
        check_room(bundles, config)
        wanted = [_reserved(bundle) for bundle in bundles]
        group = placement_group(wanted, strategy=config.cluster.placement.upper())
        try:
            _await(group, bundles, config, note)
        except BaseException:
            remove_placement_group(group)
            raise
        return cls(resources, group, neighbours(bundles, _nodes_of(group)))

    def options(self, role: str, index: int) -> dict[str, Any]:
        """Return keyword arguments for the `options` of Ray's actor classes."""
        cpus, gpus = self.resources[role]
        options: dict[str, Any] = {**LONG_LIVED, "num_cpus": cpus, "num_gpus": gpus}
        if self.group is not None:
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
                self.group, placement_group_bundle_index=self.positions[role, index]
            )
        return options

    def room(self) -> list[Node]:
        """Return the living nodes with what would be free on them without this placement."""
        own: dict[str, tuple[float, float]] = {}
        if self.group is not None:
            nodes = _nodes_of(self.group)
            for (role, _), position in self.positions.items():
                cpus, gpus = own.get(nodes[position], (0.0, 0.0))
                own[nodes[position]] = (cpus + self.resources[role][0], gpus + self.resources[role][1])
        return [node.freed(*own.get(node.node_id, (0.0, 0.0))) for node in live_nodes() if node.alive]

    def remove(self) -> None:
        """Give back what is reserved; actors that still lie there end. Idempotent."""
        if self.group is not None and ray.is_initialized():
            remove_placement_group(self.group)
        self.group = None


def _reserved(bundle: Bundle) -> dict[str, float]:
    amounts = {"CPU": bundle.cpus, "GPU": bundle.gpus}
    return {name: amount for name, amount in amounts.items() if amount > 0} or _NOTHING


def _await(group: PlacementGroup, bundles: Sequence[Bundle], config: RunConfig, note: Callable[[str], None]) -> None:
    """Wait until the group is placed; look again meanwhile whether the nodes that are left could hold it."""
    begin, noted = time.monotonic(), False
    deadline_s = config.cluster.deadline_s
    while not group.wait(min(_PAUSE_S, deadline_s)):
        elapsed = time.monotonic() - begin
        nodes = live_nodes()
        if elapsed >= deadline_s:
            raise UserError(
                f"{_taken(bundles, nodes, config)}, and there has been none for {deadline_s:g} s (cluster.deadline_s); "
                f"wait for the others to end, or ask for less"
            )
        check_room(bundles, config)
        if elapsed > _PATIENCE_S and not noted:
            note(f"{_taken(bundles, nodes, config)}; waiting for up to {deadline_s:g} s (cluster.deadline_s)")
            noted = True


def _taken(bundles: Sequence[Bundle], nodes: Sequence[Node], config: RunConfig) -> str:
    """Return what is missing at the moment, and what is taken."""
    missing = shortfall(bundles, nodes, config.cluster.placement)
    if missing is not None:
        return f"there is no room on the nodes that have been started ({missing})"
    alive = [node for node in nodes if node.alive]
    amounts = {
        "CPU": [sum(b.cpus for b in bundles), sum(n.cpus for n in alive), sum(n.free_cpus for n in alive)],
        "GPU": [sum(b.gpus for b in bundles), sum(n.gpus for n in alive), sum(n.free_gpus for n in alive)],
    }
    told = " and ".join(
        f"{need:g} {name}s (of the cluster's {have:g}, {have - free:g} are taken)"
        for name, (need, have, free) in amounts.items()
        if need > 0
    )
    return f"the plan needs {told or 'a place for each actor'} and there is no room for them"


def _nodes_of(group: PlacementGroup) -> list[str]:
    """Return the id of the node of each bundle."""
    nodes: dict[int, str] = placement_group_table(group)["bundles_to_node_id"]
    return [nodes.get(index, "") for index in range(len(nodes))]


def neighbours(bundles: Sequence[Bundle], node_ids: Sequence[str]) -> dict[tuple[str, int], int]:
    """Return each actor's bundle. Equal bundles are exchanged so that rollout workers lie beside their learner."""
    positions: dict[tuple[str, int], int] = {
        (bundle.role, bundle.index): position for position, bundle in enumerate(bundles)
    }
    learners = [bundle.index for bundle in bundles if bundle.role == "learner"]
    workers = [bundle.index for bundle in bundles if bundle.role == "rollout"]
    if not learners or not workers:
        return positions
    share = len(workers) // len(learners)
    free = [positions["rollout", index] for index in workers]
    away = []
    for number in range(share):
        for learner in learners:
            home = node_ids[positions["learner", learner]]
            worker = learner * share + number
            near = next((position for position in free if node_ids[position] == home), None)
            if near is None:
                away.append(worker)
            else:
                free.remove(near)
                positions["rollout", worker] = near
    positions.update({("rollout", worker): position for worker, position in zip(sorted(away), free, strict=True)})
    return positions


def fit(config: RunConfig, nodes: Sequence[Node]) -> RunConfig | None:
    """Return the config with as many learners, then rollout workers, as fit on these nodes, at most its own.

    Batch and environments must be shared evenly. None: there is no room for even one learner. What is left of several
    learners stays an actor.
    """
    strategy = config.cluster.placement
    if config.learner.count > 1:
        config = replace(config, cluster=replace(config.cluster, learner="actor"))
    for count in range(config.learner.count, 0, -1):
        learners = replace(config, learner=replace(config.learner, count=count))
        for candidate in _with_workers(learners):
            if _is_shared(candidate) and fits(make_plan(candidate).bundles(), nodes, strategy):
                return candidate
    return None


def _with_workers(config: RunConfig) -> list[RunConfig]:
    """Return the config with ever fewer rollout workers."""
    workers = config.workers()
    if workers is None or not workers.rollout_workers:
        return [config]
    numbers = range(workers.rollout_workers, 0, -1)
    return [replace(config, source=replace(workers, rollout_workers=number)) for number in numbers]


def _is_shared(config: RunConfig) -> bool:
    """Return whether the learners can share batch and environments evenly."""
    try:
        learner_share(config)
    except UserError:
        return False
    return True
