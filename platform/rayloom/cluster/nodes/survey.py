"""What a cluster has, and where a plan's actors would go on it: `rayloom show` against a live cluster."""

from __future__ import annotations

from collections.abc import Sequence

import ray

from rayloom.cluster.nodes.connection import connect, live_nodes
from rayloom.cluster.nodes.packing import Node, fits, forecast, shortfall
from rayloom.cluster.nodes.placement import neighbours
from rayloom.config.schema import RunConfig
from rayloom.runs.plan import Bundle, Plan, cluster_address


def survey(config: RunConfig, plan: Plan) -> tuple[str, str | None]:
    """Return tables of the cluster's nodes and of who would go where, and what is missing if something is.

    Connects to the cluster and leaves it again; nothing is reserved. UserError when no cluster answers.
    """
    address = cluster_address(config)
    assert address is not None
    started = not ray.is_initialized()
    if started:
        connect(address, config.cluster.deadline_s)
    try:
        nodes = live_nodes()
    finally:
        if started:
            ray.shutdown()
    verdict, missing = _verdict(config, plan.bundles(), nodes)
    return f"# cluster at {address}\n{_table(nodes)}\n\n# placement ({config.cluster.placement})\n{verdict}", missing


def _table(nodes: Sequence[Node]) -> str:
    lines = [f"{'node':<32} {'CPUs free':>9} {'of':>6} {'GPUs free':>9} {'of':>6}"]
    for node in nodes:
        gone = "" if node.alive else "  dead"
        amounts = f"{node.free_cpus:>9g} {node.cpus:>6g} {node.free_gpus:>9g} {node.gpus:>6g}"
        lines.append(f"{_name(node):<32} {amounts}{gone}")
    return "\n".join(lines)


def _name(node: Node) -> str:
    return f"{node.address} ({node.node_id[:8]})"


def _verdict(config: RunConfig, bundles: Sequence[Bundle], nodes: Sequence[Node]) -> tuple[str, str | None]:
    """Return who would go where, in words, and what is missing."""
    strategy = config.cluster.placement
    missing = shortfall(bundles, nodes, strategy)
    if missing is not None and any(node.group for node in nodes if node.alive):
        waiting = f"the run would wait {config.cluster.deadline_s:g} s (cluster.deadline_s) for an autoscaler's nodes"
        return f"no room on the nodes that have been started: {missing}; {waiting}", None
    if missing is not None:
        return "no room", missing
    free = [node.freed() for node in nodes if node.alive]
    busy = not fits(bundles, free, strategy)
    places = forecast(bundles, nodes if busy else free, strategy)
    lines = _by_node(bundles, places, nodes)
    if busy:
        lines.append(
            f"others use too much of it at the moment: the run would wait {config.cluster.deadline_s:g} s "
            f"(cluster.deadline_s) for them to end"
        )
    return "\n".join(lines), None


def _by_node(bundles: Sequence[Bundle], places: Sequence[Node | None], nodes: Sequence[Node]) -> list[str]:
    """Return a line for each node that gets something to do."""
    ids = ["" if place is None else place.node_id for place in places]
    positions = neighbours(bundles, ids)
    actors = sorted(((ids[position], role, index) for (role, index), position in positions.items()), key=lambda a: a[2])
    lines = []
    for node in nodes:
        mine = [(role, index) for node_id, role, index in actors if node_id == node.node_id]
        told = [_list(role, [i for r, i in mine if r == role]) for role in ("learner", "rollout", "evaluator")]
        if mine:
            lines.append(f"{_name(node):<32} {', '.join(text for text in told if text)}")
    if "" in ids:
        lines.append(f"{'wherever Ray finds room':<32} {ids.count('')} more")
    return lines


def _list(role: str, indices: Sequence[int]) -> str:
    """Return actors of one role, as "rollout workers 0-3, 8"."""
    if not indices or role == "evaluator":
        return "the evaluator" if indices else ""
    ranges: list[list[int]] = []
    for index in indices:
        if ranges and index == ranges[-1][1] + 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    numbers = ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in ranges)
    word = "learner" if role == "learner" else "rollout worker"
    return f"{word}{'s' if len(indices) > 1 else ''} {numbers}"
