"""Belief propagation on factor graphs: Kschischang, Frey and Loeliger (2001), "Factor graphs and the sum-product
algorithm"; the Bethe free energy and loopy propagation after Yedidia, Freeman and Weiss (2005).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from rayloom.contract import UserError
from rayloom_generative.graphical.factors import Factor, FactorGraph, normalized

_Node = tuple[str, int]
"""("variable", v) or ("factor", f)."""


class Beliefs(NamedTuple):
    """What belief propagation found."""

    marginals: tuple[Tensor, ...]
    """[K_v] for each variable; with max-product the max-marginals, scaled to sum to 1."""
    factor_marginals: tuple[Tensor, ...]
    """The same for the variables of each factor, in the shape of its table."""
    log_partition: Tensor
    """Bethe's approximation of log Z, []: exact on trees; without meaning for max-product."""


class Convergence(NamedTuple):
    """How an iteration ended."""

    converged: bool
    iterations: int
    residual: float
    """Largest change of a probability in the last iteration."""


class _Messages:
    """Log messages [K_v] in both directions along every edge (factor, variable), uniform at the start."""

    def __init__(self, graph: FactorGraph, maximize: bool) -> None:
        self.graph = graph
        self.maximize = maximize
        self.factors_of: list[list[int]] = [[] for _ in graph.cardinalities]
        for number, factor in enumerate(graph.factors):
            for variable in factor.variables:
                self.factors_of[variable].append(number)
        self.edges = [(number, v) for number, factor in enumerate(graph.factors) for v in factor.variables]
        start = {(f, v): graph.factors[f].log_table.new_zeros(graph.cardinalities[v]) for f, v in self.edges}
        self.to_variable = dict(start)
        self.to_factor = dict(start)

    def from_variable(self, factor: int, variable: int) -> Tensor:
        """Return the product of what the variable hears from its other factors."""
        others = [self.to_variable[f, variable] for f in self.factors_of[variable] if f != factor]
        return _scaled(torch.stack(others).sum(0)) if others else torch.zeros_like(self.to_factor[factor, variable])

    def from_factor(self, factor: int, variable: int) -> Tensor:
        """Return the factor times what it hears from its other variables, summed or maximised over them."""
        scope = self.graph.factors[factor].variables
        axis = scope.index(variable)
        heard = self.weighed(factor, without=variable).movedim(axis, 0).reshape(self.graph.cardinalities[variable], -1)
        return _scaled(heard.amax(1) if self.maximize else heard.logsumexp(1))

    def weighed(self, factor: int, without: int | None = None) -> Tensor:
        """Return the log table plus the messages to the factor along all its dimensions, except from `without`."""
        table = self.graph.factors[factor].log_table
        for axis, variable in enumerate(self.graph.factors[factor].variables):
            if variable != without:
                shape = [1] * table.ndim
                shape[axis] = -1
                table = table + self.to_factor[factor, variable].view(shape)
        return table

    def variable_log_belief(self, variable: int) -> Tensor:
        """Return the product of everything that the variable hears, [K_v]."""
        heard = [self.to_variable[factor, variable] for factor in self.factors_of[variable]]
        return torch.stack(heard).sum(0) if heard else torch.zeros(self.graph.cardinalities[variable]).double()

    def send(self, source: _Node, target: _Node) -> None:
        """Refresh one message."""
        if source[0] == "variable":
            self.to_factor[target[1], source[1]] = self.from_variable(target[1], source[1])
        else:
            self.to_variable[source[1], target[1]] = self.from_factor(source[1], target[1])

    def beliefs(self) -> Beliefs:
        """Return marginals and Bethe's log Z = sum_f (E[log f] + H_f) - sum_v (degree - 1) H_v."""
        variables = tuple(normalized(self.variable_log_belief(v)) for v in range(len(self.graph.cardinalities)))
        factors = tuple(normalized(self.weighed(number)) for number in range(len(self.graph.factors)))
        terms = [_expected_log(q, f) + entropy(q) for q, f in zip(factors, self.graph.factors, strict=True)]
        terms += [(1 - len(self.factors_of[v])) * entropy(q) for v, q in enumerate(variables)]
        return Beliefs(variables, factors, torch.stack(terms).sum())


def _scaled(message: Tensor) -> Tensor:
    """Return a message whose largest entry is 0, so that products of many neither overflow nor vanish."""
    largest = message.max()
    return message if bool(largest.isneginf()) else message - largest


def entropy(probability: Tensor) -> Tensor:
    """Return the entropy of a table of probabilities in nats, []."""
    return -torch.xlogy(probability, probability).sum()


def _expected_log(probability: Tensor, factor: Factor) -> Tensor:
    return torch.where(probability > 0, probability * factor.log_table, torch.zeros_like(probability)).sum()


def _walk(messages: _Messages) -> Iterator[tuple[_Node, _Node | None]]:
    """Yield every node with its parent, parents first; UserError where the graph has a cycle."""
    graph, seen = messages.graph, set[_Node]()
    for root in range(len(graph.cardinalities)):
        if ("variable", root) in seen:
            continue
        waiting: list[tuple[_Node, _Node | None]] = [(("variable", root), None)]
        while waiting:
            node, parent = waiting.pop()
            if node in seen:
                raise UserError("the factor graph has a cycle: use eliminate or loopy_belief_propagation")
            seen.add(node)
            yield node, parent
            kind, number = node
            if kind == "variable":
                near: list[_Node] = [("factor", f) for f in messages.factors_of[number]]
            else:
                near = [("variable", v) for v in graph.factors[number].variables]
            waiting += [(other, node) for other in near if other != parent]


def belief_propagation(graph: FactorGraph, maximize: bool = False) -> Beliefs:
    """Return exact marginals and log Z of a tree or forest: one pass to the roots and one back.

    With `maximize` the max-product algorithm. UserError where the graph has a cycle.
    """
    messages = _Messages(graph, maximize)
    order = list(_walk(messages))
    for node, parent in reversed(order):
        if parent is not None:
            messages.send(node, parent)
    for node, parent in order:
        if parent is not None:
            messages.send(parent, node)
    return messages.beliefs()


def most_probable(graph: FactorGraph) -> tuple[Tensor, Tensor]:
    """Return a most probable assignment [V] (int64) of a tree or forest and its log score [].

    Max-product to the roots, then each factor chooses its other variables given its parent's value, so that ties are
    broken consistently.
    """
    messages = _Messages(graph, maximize=True)
    order = list(_walk(messages))
    for node, parent in reversed(order):
        if parent is not None:
            messages.send(node, parent)
    chosen = torch.zeros(len(graph.cardinalities), dtype=torch.int64)
    for (kind, number), parent in order:
        if kind == "variable" and parent is None:
            chosen[number] = messages.variable_log_belief(number).argmax()
        if kind == "factor" and parent is not None:
            scope = graph.factors[number].variables
            table = messages.weighed(number, without=parent[1])
            given = table.movedim(scope.index(parent[1]), 0)[chosen[parent[1]]]
            best = torch.unravel_index(given.argmax(), given.shape)
            for variable, value in zip([v for v in scope if v != parent[1]], best, strict=True):
                chosen[variable] = value
    return chosen, graph.log_score(chosen[None])[0]


def loopy_belief_propagation(
    graph: FactorGraph,
    *,
    iterations: int = 200,
    tolerance: float = 1e-9,
    damping: float = 0.0,
    maximize: bool = False,
) -> tuple[Beliefs, Convergence]:
    """Return beliefs after at most `iterations` rounds in which all messages are sent at once.

    `damping` in [0, 1) is the share of the old message in the logarithm of the new one. Converged: no marginal has
    changed by more than `tolerance`. Exact on trees after as many rounds as the longest path has edges.
    """
    messages = _Messages(graph, maximize)
    before = _marginals(messages)
    residual = float("inf")
    for round_number in range(1, iterations + 1):
        for factor, variable in messages.edges:
            messages.send(("variable", variable), ("factor", factor))
        sent = {edge: messages.from_factor(*edge) for edge in messages.edges}
        if damping:  # an impossible value stays impossible: 0 times -inf is no number
            sent = {edge: damping * messages.to_variable[edge] + (1 - damping) * new for edge, new in sent.items()}
        messages.to_variable = sent
        after = _marginals(messages)
        residual = max(float((new - old).abs().max()) for new, old in zip(after, before, strict=True))
        before = after
        if residual <= tolerance:
            return messages.beliefs(), Convergence(True, round_number, residual)
    return messages.beliefs(), Convergence(False, iterations, residual)


def _marginals(messages: _Messages) -> list[Tensor]:
    return [normalized(messages.variable_log_belief(v)) for v in range(len(messages.graph.cardinalities))]
