"""Room on a cluster's nodes: exact against brute force, and sentences that say what is missing."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayloom.cluster.nodes.packing import Node, Strategy, fits, forecast, shortfall
from rayloom.runs.plan import Bundle, RoleName


def node(cpus: float, gpus: float = 0, address: str = "10.0.0.1", alive: bool = True) -> Node:
    return Node(address, cpus, gpus, cpus, gpus, node_id=address, alive=alive)


def actors(role: RoleName, count: int, cpus: float, gpus: float = 0) -> list[Bundle]:
    return [Bundle(role, index, cpus, gpus) for index in range(count)]


def tried_out(bundles: Sequence[Bundle], nodes: Sequence[Node], strategy: Strategy) -> bool:
    """Try every node, and every single GPU for fractions, for every bundle."""
    alive = [n for n in nodes if n.alive]
    places: list[list[tuple[int, int | None]]] = []
    for bundle in bundles:
        fraction = 0 < bundle.gpus < 1
        places.append(
            [(i, gpu) for i, n in enumerate(alive) for gpu in (range(int(n.gpus)) if fraction else [None])]  # type: ignore[list-item]
        )
    for chosen in itertools.product(*places):
        used = [index for index, _ in chosen]
        if strategy == "strict_pack" and len(set(used)) > 1:
            continue
        if strategy == "strict_spread" and len(set(used)) < len(used):
            continue
        if all(
            _holds(alive[i], [(b, g) for b, (j, g) in zip(bundles, chosen, strict=True) if j == i]) for i in set(used)
        ):
            return True
    return False


def _holds(machine: Node, placed: list[tuple[Bundle, int | None]]) -> bool:
    shared: dict[int, float] = {}
    for bundle, gpu in placed:
        if gpu is not None:
            shared[gpu] = shared.get(gpu, 0.0) + bundle.gpus
    whole = sum(bundle.gpus for bundle, gpu in placed if gpu is None)
    cpus = sum(bundle.cpus for bundle, _ in placed)
    return (
        cpus <= machine.cpus + 1e-6
        and all(amount <= 1 + 1e-6 for amount in shared.values())
        and whole + len(shared) <= machine.gpus
    )


_CPUS = st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0, 3.0])
_GPUS = st.sampled_from([0.0, 0.0, 0.3, 0.4, 0.5, 0.6, 1.0, 2.0])
_NODES = st.lists(
    st.builds(
        node,
        st.sampled_from([0, 1, 2, 3, 4]),
        st.sampled_from([0, 1, 2]),
        st.just("a"),
        st.sampled_from([True] * 4 + [False]),
    ),
    min_size=1,
    max_size=3,
)


@st.composite
def _demands(draw: st.DrawFn) -> list[Bundle]:
    learners = actors("learner", draw(st.integers(1, 3)), draw(_CPUS), draw(_GPUS))
    workers = actors("rollout", draw(st.integers(0, 2)), draw(_CPUS), draw(_GPUS))
    return learners + workers + actors("evaluator", draw(st.integers(0, 1)), draw(_CPUS), draw(_GPUS))


@settings(max_examples=300, deadline=None)
@given(_demands(), _NODES, st.sampled_from(["pack", "spread", "strict_pack", "strict_spread"]))
def test_what_fits_is_what_some_arrangement_holds(bundles: list[Bundle], nodes: list[Node], strategy: Strategy) -> None:
    possible = tried_out(bundles, nodes, strategy)
    assert fits(bundles, nodes, strategy) == possible
    sentence = shortfall(bundles, nodes, strategy)
    assert (sentence is None) == possible
    if sentence is not None:
        assert "\n" not in sentence and not sentence.endswith(".")
    places = forecast(bundles, nodes, strategy)
    if None not in places:
        for index in {id(place) for place in places}:
            mine = [b for b, place in zip(bundles, places, strict=True) if id(place) == index]
            host = next(place for place in places if id(place) == index)
            assert host is not None and host.alive
            assert sum(b.cpus for b in mine) <= host.cpus + 1e-6 and sum(b.gpus for b in mine) <= host.gpus + 1e-6
        if strategy == "strict_pack":
            assert len({id(place) for place in places}) == 1
        if strategy == "strict_spread":
            assert len({id(place) for place in places}) == len(bundles)


def test_tenths_add_up() -> None:
    # Ten times 0.1 is less than 1 in floating point, three times 0.1 is more than 0.3.
    assert fits(actors("rollout", 10, 0.1), [node(1)])
    assert fits(actors("rollout", 3, 0.1), [node(0.3)])
    assert not fits(actors("rollout", 11, 0.1), [node(1)])
    # 0.57 * 10_000 is a little less than 5_700.
    assert not fits(actors("learner", 1, 0.57) + actors("rollout", 1, 0.4301), [node(1)])


def test_a_fraction_lies_on_one_gpu() -> None:
    assert fits(actors("learner", 2, 0, 0.6), [node(0, 2)])
    assert not fits(actors("learner", 3, 0, 0.6), [node(0, 2)])
    assert not fits(actors("learner", 1, 0, 1) + actors("rollout", 3, 0, 0.5), [node(0, 2)])


def test_a_large_cluster_is_judged_at_once() -> None:
    demand = actors("learner", 64, 4, 1) + actors("rollout", 1000, 1, 0.1) + actors("evaluator", 1, 2, 0.3)
    # 101 GPUs of fractions and 64 whole ones: 165 at least, 20 and a half nodes of 8.
    assert fits(demand, [node(64, 8)] * 21)
    assert not fits(demand, [node(64, 8)] * 20)
    assert fits(demand, [node(8 + index, index % 9) for index in range(200)])


@pytest.mark.parametrize(
    ("bundles", "nodes", "strategy", "words"),
    [
        (
            actors("learner", 2, 1, 2),
            [node(8, 1), node(8, 1)],
            "pack",
            "learner 0 needs 2 GPUs on one node and the largest node has 1; ask for less (learner.gpus",
        ),
        (
            actors("rollout", 1, 9),
            [node(8), node(4)],
            "pack",
            "rollout worker 0 needs 9 CPUs on one node and the largest",
        ),
        (
            actors("evaluator", 1, 4, 1),
            [node(8), node(2, 1)],
            "pack",
            "needs 4 CPUs and 1 GPU on one node and no node has both",
        ),
        (
            actors("learner", 2, 1) + actors("rollout", 8, 1),
            [node(4), node(4)],
            "pack",
            "reserves 10 CPUs (2 learners 2, 8 rollout workers 8) but the cluster has 8; use fewer rollout workers",
        ),
        (actors("learner", 3, 2), [node(3), node(3)], "spread", "nodes (3 CPUs, 3 CPUs) cannot be divided"),
        (actors("learner", 3, 1), [node(2), node(2)], "strict_pack", "strict_pack wants one node for all"),
        (
            actors("learner", 3, 1),
            [node(2), node(2)],
            "strict_spread",
            "for each of 3 actors and the cluster has 2; use",
        ),
        (actors("learner", 1, 1), [node(8, alive=False)], "pack", "no living node"),
    ],
)
def test_the_sentence_names_what_is_missing(
    bundles: list[Bundle], nodes: list[Node], strategy: Strategy, words: str
) -> None:
    sentence = shortfall(bundles, nodes, strategy)
    assert sentence is not None and words in sentence


def test_the_forecast_follows_the_strategy() -> None:
    nodes = [node(4, 0, "a"), node(8, 2, "b"), node(8, 2, "c")]
    demand = actors("learner", 2, 1, 1) + actors("rollout", 8, 1)

    def addresses(strategy: Strategy) -> list[str]:
        return [place.address for place in forecast(demand, nodes, strategy) if place is not None]

    assert addresses("pack") == ["b"] * 8 + ["c"] * 2
    spread = addresses("spread")
    assert spread[:2] == ["b", "c"] and {spread.count(name) for name in "abc"} == {3, 4}
