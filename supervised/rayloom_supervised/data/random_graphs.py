"""Random graphs of unequal size: communities to be found, hidden edges to be foretold, distances to be told."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from rayloom.contract import TensorSpec, component
from rayloom.datasets import Dataset
from rayloom_supervised.data.ragged import SizeConfig, ragged_dataset

Array = npt.NDArray[np.float64]
Edges = list[tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class GraphConfig(SizeConfig):
    """How many random graphs, and how large they are."""

    smallest: Annotated[int, Ge(6)] = 20
    """Fewest nodes."""
    largest: Annotated[int, Ge(6)] = 40
    """Most nodes."""

    def __post_init__(self) -> None:
        """Refuse sizes in the wrong order."""
        if self.smallest > self.largest:
            raise ValueError("largest: make it at least smallest")


@dataclass(frozen=True, kw_only=True)
class CommunitiesConfig(GraphConfig):
    """Graphs of communities that are dense inside (a stochastic block model); some nodes tell theirs."""

    communities: Annotated[int, Ge(2)] = 3
    """Their number; a node is in each with equal chance."""
    inside: Annotated[float, Gt(0), Le(1)] = 0.3
    """Probability of an edge between two nodes of one community."""
    between: Annotated[float, Ge(0), Lt(1)] = 0.05
    """Probability of an edge between two nodes of different ones."""
    told: Annotated[float, Gt(0), Lt(1)] = 0.15
    """Probability that a node tells its community; the others are asked for."""


@component("data set", CommunitiesConfig)
def communities(config: CommunitiesConfig, seed: int) -> Dataset:
    """Return `node` [N, K], one-hot for who tells and else 0, `edge` [E, 2], `query` [Q, 1], `query_label` [Q]."""
    chance = np.random.default_rng(seed)
    rows: dict[str, list[Tensor]] = {"node": [], "edge": [], "query": [], "query_label": []}
    for _ in range(config.total):
        size = int(chance.integers(config.smallest, config.largest + 1))
        member = chance.integers(config.communities, size=size)
        same = member[:, None] == member
        linked = np.triu(chance.random((size, size)) < np.where(same, config.inside, config.between), 1)
        told = chance.random(size) < config.told
        told[chance.integers(size)] = False  # somebody is asked for
        rows["node"].append(
            torch.from_numpy(np.eye(config.communities, dtype=np.float32)[member] * told[:, None]).float()
        )
        rows["edge"].append(_edges(linked))
        rows["query"].append(torch.from_numpy(np.flatnonzero(~told))[:, None])
        rows["query_label"].append(torch.from_numpy(member[~told]))
    names = tuple(f"community {number + 1}" for number in range(config.communities))
    return ragged_dataset("communities", config, rows, {"query_label": names})


@dataclass(frozen=True, kw_only=True)
class HiddenEdgesConfig(GraphConfig):
    """Points of the unit square that are linked where they are near; edges are hidden, and places known with noise."""

    radius: Annotated[float, Gt(0)] = 0.25
    """Points that are nearer than this are linked."""
    noise: Annotated[float, Ge(0)] = 0.15
    """Standard deviation of the error of a coordinate."""
    hidden: Annotated[float, Gt(0), Lt(1)] = 0.2
    """Share of the edges that are hidden; as many pairs without an edge, at most twice as far apart, are asked for."""


@component("data set", HiddenEdgesConfig)
def hidden_edges(config: HiddenEdgesConfig, seed: int) -> Dataset:
    """Return `node` [N, 2], noisy places, `edge` [E, 2], `query` [Q, 2] and whether these pairs are linked."""
    chance = np.random.default_rng(seed)
    rows: dict[str, list[Tensor]] = {"node": [], "edge": [], "query": [], "query_label": []}
    for _ in range(config.total):
        size = int(chance.integers(config.smallest, config.largest + 1))
        place = chance.random((size, 2))
        apart = np.linalg.norm(place[:, None] - place, axis=2)
        near = np.argwhere(np.triu(apart < config.radius, 1))
        far = np.argwhere(np.triu((apart >= config.radius) & (apart < 2 * config.radius), 1))
        near, far = (chance.permutation(pairs) for pairs in (near, far))
        count = min(max(1, round(config.hidden * len(near))), len(near), len(far))
        rows["node"].append(torch.from_numpy(place + config.noise * chance.normal(size=place.shape)).float())
        rows["edge"].append(torch.from_numpy(near[count:]))
        rows["query"].append(torch.from_numpy(np.concatenate((near[:count], far[:count]))))
        rows["query_label"].append(torch.tensor([1] * count + [0] * count, dtype=torch.int64))
    return ragged_dataset("hidden-edges", config, rows, {"query_label": ("apart", "linked")})


@dataclass(frozen=True, kw_only=True)
class DistancesConfig(GraphConfig):
    """Sparse random graphs with two marked nodes, whose distance is asked for; all answers are equally frequent."""

    degree: Annotated[float, Gt(0)] = 2.0
    """Expected number of edges at a node."""
    farthest: Annotated[int, Ge(1), Le(1_000)] = 4
    """Greatest distance that is told; the last answer stands for all beyond it, and for no way at all."""


def distance(size: int, edges: Edges, begin: int, end: int) -> int | None:
    """Return the fewest edges from one node to another, by breadth-first search; None without a way."""
    beside: list[list[int]] = [[] for _ in range(size)]
    for one, other in edges:
        beside[one].append(other)
        beside[other].append(one)
    found, queue = {begin: 0}, deque([begin])
    while queue:
        node = queue.popleft()
        for other in beside[node]:
            if other not in found:
                found[other] = found[node] + 1
                queue.append(other)
    return found.get(end)


@component("data set", DistancesConfig)
def distances(config: DistancesConfig, seed: int) -> Dataset:
    """Return `node` [N, 1], 1 where it is marked, `edge` [E, 2] and `label`: 1, 2, ..., or farther."""
    chance, choose = np.random.default_rng(seed), random.Random(seed)
    rows: dict[str, list[Tensor]] = {"node": [], "edge": []}
    labels: list[int] = []
    answers = config.farthest + 1
    while len(labels) < config.total:
        wanted = choose.randrange(answers)
        size = choose.randint(config.smallest, config.largest)
        linked = np.triu(chance.random((size, size)) < config.degree / (size - 1), 1)
        edges = _edges(linked)
        pairs = [choose.sample(range(size), 2) for _ in range(20)]
        listed: Edges = [(one, other) for one, other in edges.tolist()]
        told = (distance(size, listed, *pair) for pair in pairs)
        fitting = (
            pair for pair, steps in zip(pairs, told, strict=True) if min(steps or answers, answers) - 1 == wanted
        )
        marked = next(fitting, None)
        if marked is None:
            continue
        rows["node"].append(torch.zeros(size, 1).index_fill(0, torch.tensor(marked), 1.0))
        rows["edge"].append(edges)
        labels.append(wanted)
    names = (*(str(number + 1) for number in range(config.farthest)), "farther")
    spec = TensorSpec(shape=(), dtype=torch.int64, num_values=answers, labels=names)
    return ragged_dataset("distances", config, rows, {}, {"label": (torch.tensor(labels), spec)})


def _edges(linked: npt.NDArray[np.bool_]) -> Tensor:
    """Return the edges [E, 2] of an upper triangle [N, N]."""
    return torch.from_numpy(np.argwhere(linked))
