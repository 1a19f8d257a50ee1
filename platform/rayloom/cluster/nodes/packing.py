"""Whether a run's actors have room on the nodes of a cluster, exactly, and what is missing where they have not.

Actors come in few kinds (learners, rollout workers, the evaluator), so the question is small: a node's possibilities
are vectors of how many of each kind it holds, those of several nodes are sums of such vectors, and the actors fit when
their numbers are among the sums. Sets of vectors are closed downwards; they are kept as {numbers of all kinds but the
last: most of the last}, which never outgrows the demand. A fraction of a GPU lies on one GPU, as Ray has it.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rayloom.runs.plan import Bundle, RoleName

Strategy = Literal["pack", "spread", "strict_pack", "strict_spread"]

_GRAIN = 10_000  # Ray counts in ten-thousandths
_Vector = tuple[int, ...]
_Set = Mapping[_Vector, int]


@dataclass(frozen=True)
class Node:
    """One machine of a cluster."""

    address: str
    cpus: float
    gpus: float
    free_cpus: float
    """CPUs that nobody has reserved at the moment."""
    free_gpus: float
    node_id: str = ""
    alive: bool = True
    group: str = ""
    """Node type, in clusters of a launcher or operator whose autoscaler may start more nodes."""

    def freed(self, cpus: float = 0.0, gpus: float = 0.0) -> Node:
        """Return the node as if it had only what is free and these besides."""
        cpus, gpus = self.free_cpus + cpus, self.free_gpus + gpus
        return replace(self, cpus=cpus, gpus=gpus, free_cpus=cpus, free_gpus=gpus)


@dataclass(frozen=True)
class _Kinds:
    """The different bundles of a demand, the most numerous last."""

    cpus: tuple[int, ...]
    gpus: tuple[int, ...]
    demand: _Vector

    @staticmethod
    def of(bundles: Sequence[Bundle]) -> _Kinds:
        counted = Counter((_grains(bundle.cpus), _grains(bundle.gpus)) for bundle in bundles)
        ordered = sorted(counted.items(), key=lambda item: (item[1], item[0]))
        return _Kinds(
            tuple(cpus for (cpus, _), _ in ordered),
            tuple(gpus for (_, gpus), _ in ordered),
            tuple(count for _, count in ordered),
        )


def _grains(amount: float) -> int:
    return round(amount * _GRAIN)


def fits(bundles: Sequence[Bundle], nodes: Sequence[Node], strategy: Strategy = "pack") -> bool:
    """Return whether there is any way to lay the bundles on the living nodes as the strategy demands."""
    if not bundles:
        return True
    kinds = _Kinds.of(bundles)
    shapes = Counter((_grains(node.cpus), int(node.gpus)) for node in nodes if node.alive)
    if strategy == "strict_pack":
        return any(_contains(_on_node(kinds, *shape), kinds.demand) for shape in shapes)
    total: _Set = {(0,) * (len(kinds.demand) - 1): 0}
    for shape, number in shapes.items():
        on_one = (
            _one_at_most(_on_node(kinds, *shape), kinds) if strategy == "strict_spread" else _on_node(kinds, *shape)
        )
        total = _sum(total, _times(on_one, number, kinds.demand), kinds.demand)
        if _contains(total, kinds.demand):
            return True
    return False


def _contains(vectors: _Set, vector: _Vector) -> bool:
    return vectors.get(vector[:-1], -1) >= vector[-1]


def _most(capacity: int, sizes: _Vector, demand: _Vector) -> _Set:
    """Return all numbers of things of these sizes that one capacity holds."""
    vectors = {}
    for head in itertools.product(*(range(count + 1) for count in demand[:-1])):
        rest = capacity - sum(size * count for size, count in zip(sizes, head, strict=False))
        if rest >= 0:
            vectors[head] = min(demand[-1], rest // sizes[-1]) if sizes[-1] else demand[-1]
    return vectors


def _sum(first: _Set, second: _Set, demand: _Vector) -> _Set:
    """Return what two places hold together, where more than the demand counts as the demand."""
    vectors: dict[_Vector, int] = {}
    for (head, last), (other, other_last) in itertools.product(first.items(), second.items()):
        both = tuple(map(sum, zip(head, other, strict=True)))
        if all(count <= most for count, most in zip(both, demand, strict=False)):
            vectors[both] = max(vectors.get(both, 0), min(demand[-1], last + other_last))
    return vectors


def _times(vectors: _Set, number: int, demand: _Vector) -> _Set:
    """Return what `number` equal places hold together, by doubling."""
    total: _Set = {(0,) * (len(demand) - 1): 0}
    while number:
        if number % 2:
            total = _sum(total, vectors, demand)
        number //= 2
        vectors = _sum(vectors, vectors, demand) if number else vectors
    return total


def _on_node(kinds: _Kinds, cpus: int, gpus: int) -> _Set:
    """Return what one node holds: the numbers that both its CPUs and its GPUs allow."""
    by_cpus = _most(cpus, kinds.cpus, kinds.demand)
    by_gpus = _on_gpus(kinds, gpus)
    return {head: min(last, by_gpus[head]) for head, last in by_cpus.items() if head in by_gpus}


def _on_gpus(kinds: _Kinds, number: int) -> _Set:
    """Return what `number` GPUs hold. Whole GPUs belong to one actor each; fractions share one, never across two."""
    demand, sizes = kinds.demand, kinds.gpus
    # A kind that cannot be part of a bin stays out of it: its size is larger than any capacity.
    never = (number + 1) * _GRAIN
    shared = _most(_GRAIN, tuple(size if 0 < size < _GRAIN else never for size in sizes), demand)
    without = tuple(0 if size == 0 else never for size in sizes)
    total: dict[_Vector, int] = {}
    for whole in range(number + 1):
        owned = _most(whole * _GRAIN, tuple(size if size >= _GRAIN else never for size in sizes), demand)
        held = _sum(_sum(owned, _times(shared, number - whole, demand), demand), _most(0, without, demand), demand)
        for head, last in held.items():
            total[head] = max(total.get(head, 0), last)
    return total


def _one_at_most(vectors: _Set, kinds: _Kinds) -> _Set:
    """Return those of the vectors that are a single bundle, or none."""
    zero = (0,) * (len(kinds.demand) - 1)
    single = {head: 0 for head in vectors if sum(head) == 1}
    return {**single, zero: min(1, vectors.get(zero, 0))}


# --- what is missing -----------------------------------------------------------------------------------------------


def shortfall(bundles: Sequence[Bundle], nodes: Sequence[Node], strategy: Strategy = "pack") -> str | None:
    """Return in one sentence why the bundles do not fit on the living nodes and what to change; None when they do."""
    if fits(bundles, nodes, strategy):
        return None
    alive = [node for node in nodes if node.alive]
    if not alive:
        return "the cluster has no living node; start one (ray start)"
    for bundle in sorted(bundles, key=lambda bundle: (-bundle.gpus, -bundle.cpus)):
        if not fits([bundle], alive):
            return f"{_too_large(bundle, alive)}; ask for less ({_KEYS[bundle.role]}) or add a larger node"
    totals = {unit: sum(getattr(bundle, unit) for bundle in bundles) for unit in ("gpus", "cpus")}
    have = {unit: sum(getattr(node, unit) for node in alive) for unit in totals}
    for unit, need in totals.items():
        if _grains(need) > _grains(have[unit]):
            return (
                f"the plan reserves {_amount(need, unit)} ({_shares(bundles, unit)}) but the cluster has "
                f"{have[unit]:g}; use fewer rollout workers (source.rollout_workers) or learners (learner.count), or "
                f"less for each"
            )
    wanted = f"{len(bundles)} actors need {_amounts(totals['cpus'], totals['gpus'])}"
    if strategy == "strict_pack":
        return (
            f"cluster.placement: strict_pack wants one node for all, whose {wanted}, and the largest node has "
            f"{_amounts(*_largest(alive))}; use pack"
        )
    if strategy == "strict_spread" and fits(bundles, alive):
        return (
            f"cluster.placement: strict_spread wants a node for each of {len(bundles)} actors and the cluster has "
            f"{len(alive)}{' of which some are too small' if len(alive) >= len(bundles) else ''}; use spread"
        )
    counts = ", ".join(_amounts(node.cpus, node.gpus) for node in alive)
    return (
        f"the cluster has enough in all, but its nodes ({counts}) cannot be divided among the plan's actors "
        f"({_each(bundles)}); ask for less for each, or add a node"
    )


_KEYS = {
    "learner": "learner.gpus, learner.cpus, learner.threads",
    "rollout": "source.worker_cpus, source.worker_gpus",
    "evaluator": "cluster.evaluator_cpus, cluster.evaluator_gpus",
}


def _largest(nodes: Sequence[Node]) -> tuple[float, float]:
    """Return CPUs and GPUs of the node that has most, GPUs before CPUs."""
    return max(((node.cpus, node.gpus) for node in nodes), key=lambda amounts: (amounts[1], amounts[0]))


def _too_large(bundle: Bundle, nodes: Sequence[Node]) -> str:
    """Return why no node holds this one bundle."""
    for unit in ("gpus", "cpus"):
        need, most = getattr(bundle, unit), max(getattr(node, unit) for node in nodes)
        if _grains(need) > _grains(most):
            return f"{bundle.name} needs {_amount(need, unit)} on one node and the largest node has {most:g}"
    if 1 < bundle.gpus != int(bundle.gpus):
        return f"{bundle.name} needs {bundle.gpus:g} GPUs, and more than one GPU must be a whole number of them"
    largest = _amounts(*_largest(nodes))
    return (
        f"{bundle.name} needs {_amounts(bundle.cpus, bundle.gpus)} on one node and no node has both (one has {largest})"
    )


def _amount(count: float, unit: str) -> str:
    word = {"cpus": "CPU", "gpus": "GPU"}[unit]
    return f"{count:g} {word}" if count == 1 else f"{count:g} {word}s"


def _amounts(cpus: float, gpus: float) -> str:
    return f"{_amount(cpus, 'cpus')} and {_amount(gpus, 'gpus')}" if gpus else _amount(cpus, "cpus")


def _shares(bundles: Sequence[Bundle], unit: str) -> str:
    """Return which roles make up a total, as "2 learners 4, 8 rollout workers 8"."""
    parts = []
    for role, number in Counter(bundle.role for bundle in bundles).items():
        amount = sum(getattr(bundle, unit) for bundle in bundles if bundle.role == role)
        parts += [f"{_actors(role, number)} {amount:g}"] if amount else []
    return ", ".join(parts)


def _each(bundles: Sequence[Bundle]) -> str:
    """Return what one actor of each role needs."""
    first = {bundle.role: bundle for bundle in reversed(bundles)}
    numbers = Counter(bundle.role for bundle in bundles)
    return ", ".join(
        f"{_actors(role, numbers[role])} with {_amounts(first[role].cpus, first[role].gpus)} each" for role in numbers
    )


def _actors(role: RoleName, number: int) -> str:
    word = {"learner": "learner", "rollout": "rollout worker", "evaluator": "evaluator"}[role]
    return f"{number} {word}{'s' if number > 1 else ''}"


# --- where Ray would lay them --------------------------------------------------------------------------------------


def forecast(bundles: Sequence[Bundle], nodes: Sequence[Node], strategy: Strategy = "pack") -> list[Node | None]:
    """Return a node for each bundle, in Ray's manner: the largest first; packed, or spread over unused nodes.

    None for bundles that this way finds no room for. What Ray does depends on what others run meanwhile.
    """
    left = {index: (_grains(node.cpus), _grains(node.gpus)) for index, node in enumerate(nodes) if node.alive}
    if strategy == "strict_pack":
        left = {index: left[index] for index in left if fits(bundles, [nodes[index]])}
    places: list[Node | None] = [None] * len(bundles)
    used: list[int] = []
    for position in sorted(range(len(bundles)), key=lambda i: (-bundles[i].gpus, -bundles[i].cpus, i)):
        need = (_grains(bundles[position].cpus), _grains(bundles[position].gpus))
        room = [i for i, rest in left.items() if need[0] <= rest[0] and need[1] <= rest[1]]
        fresh = sorted((i for i in room if i not in used), key=lambda i: -_rest_after(need, left[i]))
        again = [i for i in used if i in room]
        if strategy in ("pack", "strict_pack"):
            choices = again + fresh
        elif strategy == "spread":
            choices = fresh + sorted(again, key=used.count)
        else:
            choices = fresh
        if choices:
            choice = choices[0]
            left[choice] = (left[choice][0] - need[0], left[choice][1] - need[1])
            used.append(choice)
            places[position] = nodes[choice]
    return places


def _rest_after(need: tuple[int, int], rest: tuple[int, int]) -> float:
    """Return Ray's score of a node: which share of what the bundle asks for would still be free afterwards."""
    return sum((have - amount) / have for amount, have in zip(need, rest, strict=True) if amount)
