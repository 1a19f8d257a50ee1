"""Mean field: the product distribution nearest to a factor graph's. Jordan, Ghahramani, Jaakkola and Saul (1999)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rayloom.contract import UserError
from rayloom_generative.graphical.belief_propagation import Convergence, entropy
from rayloom_generative.graphical.factors import Factor, FactorGraph


class MeanField(NamedTuple):
    """What mean field found."""

    marginals: tuple[Tensor, ...]
    """q(x_v), [K_v] for each variable."""
    bounds: tuple[float, ...]
    """E_q[log product of factors] + H(q) after each sweep: it never falls, and never exceeds log Z."""
    convergence: Convergence


def mean_field(
    graph: FactorGraph,
    start: tuple[Tensor, ...] | None = None,
    *,
    sweeps: int = 200,
    tolerance: float = 1e-9,
) -> MeanField:
    """Return the fixed point of q(x_v) ~ exp(E_q[log factors given x_v]), one variable at a time.

    `start` are the first q, [K_v] each (default: uniform, which a symmetric model never leaves). UserError for factors
    with zeros: their expected logarithm is not finite.
    """
    for number, factor in enumerate(graph.factors):
        if not bool(factor.log_table.isfinite().all()):
            raise UserError(f"factor {number} has the value 0 somewhere: mean field needs positive factors")
    uniform = tuple(torch.full((size,), 1 / size, dtype=torch.float64) for size in graph.cardinalities)
    marginals = list(start or uniform)
    touching = [[each for each in graph.factors if v in each.variables] for v in range(len(marginals))]
    bounds = list[float]()
    residual = float("inf")
    for sweep in range(1, sweeps + 1):
        residual = 0.0
        for variable, factors in enumerate(touching):
            logits = torch.zeros_like(marginals[variable])
            for factor in factors:
                logits = logits + _expectation(factor, marginals, variable)
            new = logits.softmax(0)
            residual = max(residual, float((new - marginals[variable]).abs().max()))
            marginals[variable] = new
        bounds.append(_bound(graph, marginals))
        if residual <= tolerance:
            return MeanField(tuple(marginals), tuple(bounds), Convergence(True, sweep, residual))
    return MeanField(tuple(marginals), tuple(bounds), Convergence(False, sweeps, residual))


def _expectation(factor: Factor, marginals: list[Tensor], kept: int | None) -> Tensor:
    """Return E_q[log factor] over all its variables but `kept`, [K of kept] or []."""
    table = factor.log_table
    for axis in reversed(range(table.ndim)):
        variable = factor.variables[axis]
        if variable != kept:
            table = torch.tensordot(table, marginals[variable].to(table.dtype), dims=([axis], [0]))
    return table


def _bound(graph: FactorGraph, marginals: list[Tensor]) -> float:
    expected = [_expectation(factor, marginals, None) for factor in graph.factors]
    return float(torch.stack([*expected, *(entropy(each) for each in marginals)]).sum())
