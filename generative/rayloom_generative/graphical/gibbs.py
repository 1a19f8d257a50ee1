"""Gibbs sampling and simulated annealing in factor graphs: Geman and Geman (1984)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rayloom_generative.graphical.factors import FactorGraph


def conditional_logits(graph: FactorGraph, state: Tensor, variable: int) -> Tensor:
    """Return log p(x_v | all others) + constant for states [N, V] (int64), [N, K_v]."""
    total = torch.zeros(len(state), graph.cardinalities[variable], dtype=torch.float64)
    for factor in graph.factors:
        if variable in factor.variables:
            others = [state[:, each] for each in factor.variables if each != variable]
            table = factor.log_table.movedim(factor.variables.index(variable), -1)
            total = total + (table[tuple(others)] if others else table)
    return total


def gibbs_sweep(
    graph: FactorGraph, state: Tensor, generator: torch.Generator, inverse_temperature: float = 1.0
) -> Tensor:
    """Return new states [N, V] of N chains: each variable in turn from its conditional, at exp(score / temperature).

    A state of probability 0 is never entered, so that the first one should be possible.
    """
    state = state.clone()
    for variable in range(len(graph.cardinalities)):
        logits = inverse_temperature * conditional_logits(graph, state, variable)
        state[:, variable] = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    return state


def random_states(graph: FactorGraph, chains: int, generator: torch.Generator) -> Tensor:
    """Return uniformly random states, [chains, V] int64."""
    columns = [torch.randint(size, (chains,), generator=generator) for size in graph.cardinalities]
    return torch.stack(columns, dim=1)


def gibbs_marginals(
    graph: FactorGraph, state: Tensor, sweeps: int, burn_in: Sequence[float], generator: torch.Generator
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Return the frequencies [K_v] of each variable's values over chains and `sweeps`, and the last states [N, V].

    `burn_in` are the inverse temperatures of the sweeps before anything is counted: rising to 1, they let chains
    cross between modes first.
    """
    for inverse_temperature in burn_in:
        state = gibbs_sweep(graph, state, generator, inverse_temperature)
    counts = [torch.zeros(size, dtype=torch.float64) for size in graph.cardinalities]
    for _ in range(sweeps):
        state = gibbs_sweep(graph, state, generator)
        for variable, count in enumerate(counts):
            count += state[:, variable].bincount(minlength=len(count))
    return tuple(count / count.sum() for count in counts), state


def annealed_mode(
    graph: FactorGraph, state: Tensor, inverse_temperatures: Sequence[float], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return the best assignment [V] that N chains saw while they were cooled down, and its log score []."""
    best, best_score = state[0], graph.log_score(state[:1])[0]
    for inverse_temperature in inverse_temperatures:
        state = gibbs_sweep(graph, state, generator, inverse_temperature)
        scores = graph.log_score(state)
        if bool(scores.max() > best_score):
            best, best_score = state[scores.argmax()], scores.max()
    return best, best_score
