"""Factor graphs over discrete variables, with tables in log space, and inference by enumeration and elimination.

Variables are numbers 0..V-1, their values 0..K-1; p(x) = exp(sum of the factors' logarithms) / Z. Koller and Friedman
(2009), chapters 4 and 9.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rayloom.contract import UserError

MAX_STATES = 2**22
"""Joint states that a table may have."""


@dataclass(frozen=True, eq=False)
class Factor:
    """A non-negative function of some variables."""

    variables: tuple[int, ...]
    log_table: Tensor
    """[K of each variable, in their order]; -inf where the function is 0."""


@dataclass(frozen=True, eq=False)
class FactorGraph:
    """Variables, by their numbers of values, and the factors over them; UserError where they do not fit together."""

    cardinalities: tuple[int, ...]
    factors: tuple[Factor, ...]

    def __post_init__(self) -> None:
        """Check every factor's variables and shape."""
        for number, factor in enumerate(self.factors):
            scope = factor.variables
            if not scope or len(set(scope)) < len(scope) or not set(scope) <= set(range(len(self.cardinalities))):
                raise UserError(
                    f"factor {number}: its variables {scope} must be different numbers from 0 to "
                    f"{len(self.cardinalities) - 1}"
                )
            shape = tuple(self.cardinalities[variable] for variable in scope)
            if tuple(factor.log_table.shape) != shape:
                raise UserError(f"factor {number}: make its table {shape}, not {tuple(factor.log_table.shape)}")

    def log_score(self, assignment: Tensor) -> Tensor:
        """Return the logarithm of the product of all factors [N] for assignments [N, V] (int64)."""
        terms = [factor.log_table[assignment[:, list(factor.variables)].unbind(1)] for factor in self.factors]
        return torch.stack(terms).sum(0)


def observe(graph: FactorGraph, evidence: Mapping[int, int]) -> FactorGraph:
    """Return the graph with the variables of `evidence` held at their values, by one more factor for each."""
    added = []
    for variable, value in evidence.items():
        if not 0 <= value < graph.cardinalities[variable]:
            raise UserError(f"variable {variable} has the values 0 to {graph.cardinalities[variable] - 1}, not {value}")
        table = torch.full((graph.cardinalities[variable],), -torch.inf, dtype=torch.float64)
        table[value] = 0
        added.append(Factor((variable,), table))
    return FactorGraph(graph.cardinalities, (*graph.factors, *added))


def aligned(factor: Factor, scope: Sequence[int]) -> Tensor:
    """Return a factor's table with one dimension for each variable of the ordered `scope`, of size 1 for others'."""
    own = sorted(range(len(factor.variables)), key=lambda axis: scope.index(factor.variables[axis]))
    sizes = dict(zip(factor.variables, factor.log_table.shape, strict=True))
    return factor.log_table.permute(own).reshape([sizes.get(variable, 1) for variable in scope])


def product(factors: Sequence[Factor], scope: Sequence[int], cardinalities: Sequence[int]) -> Tensor:
    """Return the logarithm of the product of factors over the variables `scope`, [K of each]; UserError if too large.

    Without factors it is 0 everywhere.
    """
    shape = [cardinalities[variable] for variable in scope]
    if math.prod(shape) > MAX_STATES:
        raise UserError(
            f"{len(scope)} variables have {math.prod(shape):.3g} joint states, more than {MAX_STATES}; use "
            f"loopy belief propagation, mean field or Gibbs sampling"
        )
    tables = [aligned(factor, scope) for factor in factors]
    total = tables[0].new_zeros(shape) if tables else torch.zeros(shape, dtype=torch.float64)
    for table in tables:
        total = total + table
    return total


def normalized(log_table: Tensor) -> Tensor:
    """Return the distribution of an unnormalised log table; UserError where every state is impossible."""
    log_partition = log_table.flatten().logsumexp(0)
    if bool(log_partition.isneginf()):
        raise UserError("every joint state has probability 0: the evidence contradicts the factors; change one of them")
    return (log_table - log_partition).exp()


def joint_log_table(graph: FactorGraph) -> Tensor:
    """Return the unnormalised log-probability of every joint state, [K_0, ..., K_{V-1}]."""
    return product(graph.factors, range(len(graph.cardinalities)), graph.cardinalities)


def enumerated_marginals(graph: FactorGraph) -> tuple[Tensor, ...]:
    """Return p(x_v), [K_v] for each variable, by summing over all joint states."""
    joint = normalized(joint_log_table(graph))
    axes = range(joint.ndim)
    return tuple(joint.sum([axis for axis in axes if axis != kept]) if joint.ndim > 1 else joint for kept in axes)


def eliminate(graph: FactorGraph, keep: Sequence[int]) -> Tensor:
    """Return the logarithm of the factors' product summed over all variables but `keep`, [K of each of `keep`].

    Variable elimination (Zhang and Poole 1994), next the variable whose product with its neighbours is the smallest
    table. Exact on every graph; UserError where a table would be too large. With keep = () it is log Z, [].
    """
    factors = list(graph.factors)
    remaining = set(range(len(graph.cardinalities))) - set(keep)
    while remaining:
        scopes = {variable: _scope_with(variable, factors) for variable in remaining}
        variable = min(remaining, key=lambda each: (math.prod(graph.cardinalities[v] for v in scopes[each]), each))
        scope = (*(each for each in scopes[variable] if each != variable), variable)
        touching = [factor for factor in factors if variable in factor.variables]
        table = product(touching, scope, graph.cardinalities).logsumexp(-1)
        factors = [factor for factor in factors if variable not in factor.variables] + [Factor(scope[:-1], table)]
        remaining.remove(variable)
    return product(factors, keep, graph.cardinalities)


def _scope_with(variable: int, factors: Sequence[Factor]) -> tuple[int, ...]:
    return tuple(sorted({variable}.union(*(set(each.variables) for each in factors if variable in each.variables))))
