"""What a search does at its roots: noise, the schedule of sequential halving, targets without forced visits."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from rayloom_agents.alphago.compiled import compiled


def dirichlet_noise(legal: NDArray[np.bool_], total: float, generator: np.random.Generator) -> NDArray[np.float32]:
    """Return a draw over each row's legal actions [N, A], whose parameters are alike and sum to `total`."""
    counts = np.maximum(legal.sum(axis=1, keepdims=True), 1)
    # Draws of Gamma(a) with a small a may all vanish; their logarithms do not: Gamma(a) is Gamma(a + 1) * U^(1/a).
    shape = total / counts
    logs = np.log(generator.standard_gamma(np.broadcast_to(shape + 1, legal.shape)))
    logs += np.log1p(-generator.random(legal.shape)) / shape
    logs = np.where(legal, logs, -np.inf)
    draws = np.exp(logs - logs.max(axis=1, keepdims=True, initial=-1e300))
    noise: NDArray[np.float32] = (draws / np.maximum(draws.sum(axis=1, keepdims=True), 1e-300)).astype(np.float32)
    return noise


@functools.cache
def considered_visits(actions: int, simulations: int) -> tuple[int, ...]:
    """Return for each simulation of sequential halving how many visits the action has that it takes.

    `actions` are considered at first, half as many in each later phase, at least two; every phase gets about the same
    number of simulations, and the visits of earlier phases stay (Karnin et al. 2013; Danihelka et al. 2022).
    """
    if actions == 1:
        return tuple(range(simulations))
    phases, left, depth = max(1, (actions - 1).bit_length()), actions, 0
    found: list[int] = []
    while len(found) < simulations:
        rounds = max(1, simulations // (phases * left))
        found += [visits for visits in range(depth, depth + rounds) for _ in range(left)]
        depth, left = depth + rounds, max(2, left // 2)
    return tuple(found[:simulations])


@compiled
def unforced_visits(
    prior: NDArray[np.float32],
    visits: NDArray[np.int32],
    means: NDArray[np.float32],
    exploration: float,
    k: float,
) -> NDArray[np.int64]:
    """Return the root's visits [A] without those that forced playouts alone made (Wu 2019, section 3.2).

    From every action but the most visited one up to sqrt(k * prior * all visits) are taken, as long as its PUCT score
    stays below the most visited one's; what is left with a single visit is left out.
    """
    total, kept = visits.sum(), visits.astype(np.int64)
    factor = exploration * np.sqrt(1.0 + total)
    best = visits.argmax()
    limit = means[best] + factor * prior[best] / (1 + visits[best])
    for action in range(len(visits)):
        if visits[action] == 0 or action == best:
            continue
        forced = int(np.sqrt(k * prior[action] * total))
        while forced > 0 and kept[action] > 0 and means[action] + factor * prior[action] / kept[action] < limit:
            kept[action] -= 1
            forced -= 1
        if kept[action] == 1:
            kept[action] = 0
    return kept


@compiled
def take_forced_visits(
    prior: NDArray[np.float32],
    visits: NDArray[np.int32],
    sums: NDArray[np.float32],
    explore: NDArray[np.bool_],
    exploration: float,
    k: float,
    kept: NDArray[np.float64],
) -> None:
    """Write the visits of all roots [G, A] into `kept`, without the forced ones where a root explored."""
    for g in range(len(visits)):
        kept[g] = visits[g]
        if explore[g] and visits[g].sum() > 0:
            means = sums[g] / np.maximum(visits[g], 1).astype(np.float32)
            kept[g] = unforced_visits(prior[g], visits[g], means, exploration, k)
