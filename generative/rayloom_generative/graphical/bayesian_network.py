"""Bayesian networks with tables: Pearl (1988); learning by counting after Koller and Friedman (2009), chapter 17."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor

from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Figure, Gathered, Metric, Rule, Spec, UserError
from rayloom_generative.graphical.discrete_fields import known_variables, state_figure, states, variables_of
from rayloom_generative.graphical.factors import MAX_STATES, Factor, FactorGraph, eliminate, normalized, observe


@dataclass(frozen=True, kw_only=True)
class BayesianNetworkConfig(AlgorithmConfig):
    """Settings of the Bayesian network."""

    edges: tuple[tuple[str, str], ...]
    """The structure, as pairs [parent, child] of the data set's fields; []: independent variables."""
    variables: tuple[str, ...] = ()
    """Fields to model; []: all whose values are categories."""
    smoothing: Annotated[float, Ge(0)] = 0.0
    """Added to every count (a symmetric Dirichlet prior); 0: maximum likelihood."""


class BayesianNetwork(Algorithm):
    """p(x) = product over variables of a table p(x_v | parents), counted in one pass over the data.

    References: as in the module. The structure is given. Parents' values that never occur leave their row uniform.
    Tables are float64 and in log space. Queries are answered exactly by variable elimination.
    """

    Config = BayesianNetworkConfig
    sources = frozenset({"dataset"})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "loss": Metric(better="min", unit="nats", meaning="-log p(x)"),
        "impossible": Metric(better="min", meaning="share of held-out examples of probability 0, left out of the loss"),
    }

    def __init__(self, config: BayesianNetworkConfig, spec: Spec) -> None:
        """Make uniform tables; UserError for edges between unknown variables, doubled ones and cycles."""
        super().__init__(config, spec)
        self.sizes = variables_of(spec, config.variables)
        self.names = tuple(self.sizes)
        known_variables([name for edge in config.edges for name in edge], self.names, "algorithm.edges")
        doubled = [edge for edge in set(config.edges) if config.edges.count(edge) > 1]
        if doubled:
            raise UserError(f"algorithm.edges: {list(doubled[0])} stands there twice; remove one of them")
        self.parents = {name: tuple(a for a, b in config.edges if b == name) for name in self.names}
        self.order = _parents_first(self.parents)
        for number, name in enumerate(self.names):
            shape = [self.sizes[each] for each in (*self.parents[name], name)]
            if math.prod(shape) > MAX_STATES:
                raise UserError(f"algorithm.edges: the table of {name!r} would have {math.prod(shape):.3g} entries")
            table = torch.full(shape, -math.log(self.sizes[name]), dtype=torch.float64)
            self.register_buffer(f"log_table_{number}", table)

    def log_table(self, name: str) -> Tensor:
        """Return log p(x | parents), [K of each parent, K of the variable]."""
        return self.get_buffer(f"log_table_{self.names.index(name)}")

    def phases(self) -> list[Rule]:
        """Return the one rule: count over a pass."""
        return [Rule("count", self.gather, self.set_tables, tuple(self.buffers()), over="epoch")]

    def gather(self, batch: Batch) -> Gathered:
        """Return how often each variable and its parents had each of their joint values."""
        sums = {}
        for name in self.names:
            table = self.log_table(name)
            place = _places([batch[each] for each in (*self.parents[name], name)], table.shape)
            sums[name] = place.bincount(minlength=table.numel()).view(table.shape)
        return Gathered(sums, {"loss": -self.log_probability(states(batch, self.names))})

    def set_tables(self, sums: dict[str, Tensor], count: float) -> None:
        """Set every table to the relative frequencies."""
        for name in self.names:
            counts = sums[name].double() + self.config.smoothing
            total = counts.sum(-1, keepdim=True)
            share = torch.where(total > 0, counts / total.clamp(min=1e-300), 1 / self.sizes[name])
            self.log_table(name).copy_(share.log())

    def graph(self) -> FactorGraph:
        """Return the network as a factor graph whose variables are numbered as `names`; Z = 1."""
        factors = [
            Factor(tuple(self.names.index(each) for each in (*self.parents[name], name)), self.log_table(name).cpu())
            for name in self.names
        ]
        return FactorGraph(tuple(self.sizes.values()), tuple(factors))

    def log_probability(self, values: Tensor) -> Tensor:
        """Return log p(x) of joint states [N, V] in the order of `names`, [N]."""
        columns = dict(zip(self.names, values.unbind(1), strict=True))
        terms = [self.log_table(n)[tuple(columns[each] for each in (*self.parents[n], n))] for n in self.names]
        return torch.stack(terms).sum(0)

    def posterior(self, name: str, evidence: Mapping[str, int]) -> Tensor:
        """Return p(variable | evidence) [K], exactly; UserError for unknown names and impossible evidence."""
        known_variables([name, *evidence], self.names, "posterior")
        given = observe(self.graph(), {self.names.index(each): value for each, value in evidence.items()})
        return normalized(eliminate(given, (self.names.index(name),)))

    def evaluate(self, batch: Batch) -> dict[str, Tensor | tuple[Tensor, Tensor]]:
        """Return -log p(x) over the possible examples, and the share of the impossible ones."""
        found = self.log_probability(states(batch, self.names))
        possible = found.isfinite()
        return {"loss": (-found.where(possible, 0.0), possible.double()), "impossible": (~possible).double()}

    def figures(self, batch: Batch) -> dict[str, Figure]:
        """Return each variable's table, one row for each of its parents' joint values."""
        return {f"table_{name}": self._table_figure(name) for name in self.names}

    def _table_figure(self, name: str) -> Figure:
        rows = itertools.product(*(self._labels(parent) for parent in self.parents[name]))
        labels = tuple(", ".join(f"{p}={v}" for p, v in zip(self.parents[name], row, strict=True)) for row in rows)
        table = self.log_table(name).exp().float().reshape(-1, self.sizes[name])
        columns = tuple(f"{name}={value}" for value in self._labels(name))
        return Figure("table", table, labels=labels if self.parents[name] else ("p",), column_labels=columns)

    def _labels(self, name: str) -> tuple[str, ...]:
        return self.spec[name].labels or tuple(str(value) for value in range(self.sizes[name]))

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return joint samples [count, V] in the order of `names`, parents before children (ancestral sampling)."""
        columns: dict[str, Tensor] = {}
        for name in self.order:
            table = self.log_table(name).exp().cpu()
            given = table[tuple(columns[parent] for parent in self.parents[name])] if self.parents[name] else table
            rows = given.expand(count, -1)
            columns[name] = torch.multinomial(rows, 1, generator=generator)[:, 0]
        return torch.stack([columns[name] for name in self.names], dim=1)

    def sample(self, count: int, generator: torch.Generator) -> Figure:
        """Draw joint samples, as a table with one row each."""
        return state_figure(self.draw(count, generator), self.names)


def _places(values: list[Tensor], shape: torch.Size) -> Tensor:
    """Return the flat index of joint values in a table of a shape, [B]."""
    place = torch.zeros_like(values[0])
    for value, size in zip(values, shape, strict=True):
        place = place * size + value
    return place


def _parents_first(parents: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the variables so that parents precede children; UserError where the edges have a cycle."""
    order: list[str] = []
    while len(order) < len(parents):
        ready = [name for name in parents if name not in order and set(parents[name]) <= set(order)]
        if not ready:
            left = ", ".join(sorted(set(parents) - set(order)))
            raise UserError(f"algorithm.edges: the edges have a cycle among {left}; remove or turn round one of them")
        order += ready
    return tuple(order)
