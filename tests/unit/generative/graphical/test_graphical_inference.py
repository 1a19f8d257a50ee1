"""Inference in factor graphs against enumeration."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
import torch

from rayloom.errors import UserError
from rayloom_generative.graphical.belief_propagation import (
    belief_propagation,
    loopy_belief_propagation,
    most_probable,
)
from rayloom_generative.graphical.factors import (
    Factor,
    FactorGraph,
    eliminate,
    enumerated_marginals,
    joint_log_table,
    observe,
)
from rayloom_generative.graphical.gibbs import annealed_mode, gibbs_marginals, gibbs_sweep, random_states
from rayloom_generative.graphical.mean_field import mean_field

EXACT = {"rtol": 0.0, "atol": 1e-8}


def graph_of(
    cardinalities: Sequence[int], scopes: Sequence[tuple[int, ...]], seed: int, scale: float = 1.0
) -> FactorGraph:
    generator = torch.Generator().manual_seed(seed)
    factors = [
        Factor(scope, scale * torch.randn([cardinalities[v] for v in scope], generator=generator, dtype=torch.float64))
        for scope in scopes
    ]
    return FactorGraph(tuple(cardinalities), tuple(factors))


def tree(seed: int) -> FactorGraph:
    """Two trees, one with a factor of three variables, and a variable that stands alone."""
    return graph_of((2, 3, 2, 4, 2, 3, 2), [(1, 0), (1, 2, 3), (3, 4), (4,), (1,), (5,)], seed)


def ring(seed: int, scale: float) -> FactorGraph:
    scopes = [(i, (i + 1) % 6) for i in range(6)] + [(i,) for i in range(6)]
    return graph_of((2,) * 6, scopes, seed, scale)


def attractive_grid(seed: int) -> FactorGraph:
    """A 3x3 grid of spins that like to agree."""
    generator = torch.Generator().manual_seed(seed)
    spin = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    pairs = [(3 * r + c, 3 * r + c + 1) for r in range(3) for c in range(2)]
    pairs += [(3 * r + c, 3 * r + c + 3) for r in range(2) for c in range(3)]
    coupling = 0.4 * torch.rand(len(pairs), generator=generator, dtype=torch.float64)
    bias = 0.3 * torch.randn(9, generator=generator, dtype=torch.float64)
    factors = [Factor(pair, j * torch.outer(spin, spin)) for pair, j in zip(pairs, coupling, strict=True)]
    return FactorGraph((2,) * 9, (*factors, *(Factor((v,), bias[v] * spin) for v in range(9))))


def by_loops(graph: FactorGraph) -> tuple[list[list[float]], float, float]:
    """Return marginals, log Z and the largest log score by plain loops over joint states."""
    totals = [[0.0] * size for size in graph.cardinalities]
    partition, best = 0.0, -math.inf
    for state in itertools.product(*(range(size) for size in graph.cardinalities)):
        score = sum(float(f.log_table[tuple(state[v] for v in f.variables)]) for f in graph.factors)
        partition += math.exp(score)
        best = max(best, score)
        for variable, value in enumerate(state):
            totals[variable][value] += math.exp(score)
    return [[each / partition for each in row] for row in totals], math.log(partition), best


def test_enumeration_and_elimination_sum_over_all_states() -> None:
    for graph in (tree(0), ring(1, 1.0)):
        marginals, log_partition, _ = by_loops(graph)
        for found, wanted in zip(enumerated_marginals(graph), marginals, strict=True):
            torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), **EXACT)
        assert float(eliminate(graph, ())) == pytest.approx(log_partition, abs=1e-9)
        pair = eliminate(graph, (4, 1)).exp() / math.exp(log_partition)
        joint = joint_log_table(graph).exp() / math.exp(log_partition)
        wanted_pair = joint.sum([axis for axis in range(joint.ndim) if axis not in (1, 4)]).T
        torch.testing.assert_close(pair, wanted_pair, **EXACT)


@pytest.mark.parametrize("seed", range(5))
def test_belief_propagation_is_exact_on_trees(seed: int) -> None:
    graph = tree(seed)
    marginals, log_partition, _ = by_loops(graph)
    found = belief_propagation(graph)
    for belief, wanted in zip(found.marginals, marginals, strict=True):
        torch.testing.assert_close(belief, torch.tensor(wanted, dtype=torch.float64), **EXACT)
    joint = joint_log_table(graph).exp() / math.exp(log_partition)
    torch.testing.assert_close(found.factor_marginals[1], joint.sum([0, 4, 5, 6]), **EXACT)
    assert float(found.log_partition) == pytest.approx(log_partition, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_max_product_finds_the_most_probable_state(seed: int) -> None:
    graph = tree(seed)
    _, _, best = by_loops(graph)
    assignment, score = most_probable(graph)
    assert float(score) == pytest.approx(best, abs=1e-9)
    joint = joint_log_table(graph)
    assert float(joint[tuple(assignment)]) == pytest.approx(best, abs=1e-9)
    for variable, belief in enumerate(belief_propagation(graph, maximize=True).marginals):
        others = [axis for axis in range(joint.ndim) if axis != variable]
        torch.testing.assert_close(belief, joint.amax(others).softmax(0), **EXACT)


def test_ties_are_broken_consistently() -> None:
    differ = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    graph = FactorGraph((2, 2, 2), (Factor((0, 1), differ), Factor((1, 2), differ)))
    assignment, score = most_probable(graph)
    assert assignment.tolist() in ([0, 1, 0], [1, 0, 1]) and float(score) == 2.0


def test_evidence_holds_variables_at_their_values() -> None:
    graph = tree(3)
    joint = joint_log_table(graph).exp()
    given = joint[:, 2, :, :, 1].sum((1, 2, 3, 4))
    observed = observe(graph, {1: 2, 4: 1})
    for found in (belief_propagation(observed).marginals[0], enumerated_marginals(observed)[0]):
        torch.testing.assert_close(found, given / given.sum(), **EXACT)
    assert belief_propagation(observed).marginals[1].tolist() == [0, 0, 1]
    torch.testing.assert_close(belief_propagation(observed).log_partition, given.sum().log(), **EXACT)


def test_evidence_that_is_impossible_is_told() -> None:
    table = torch.tensor([[0.0, -torch.inf], [-torch.inf, 0.0]], dtype=torch.float64)
    graph = observe(FactorGraph((2, 2), (Factor((0, 1), table),)), {0: 0, 1: 1})
    for work in (belief_propagation, enumerated_marginals):
        with pytest.raises(UserError, match="contradicts"):
            work(graph)


def test_loopy_propagation_is_exact_on_trees_and_says_when_it_was_done() -> None:
    graph = tree(1)
    found, report = loopy_belief_propagation(graph, iterations=50)
    assert report.converged and report.iterations <= 10
    for belief, wanted in zip(found.marginals, enumerated_marginals(graph), strict=True):
        torch.testing.assert_close(belief, wanted, **EXACT)
    _, early = loopy_belief_propagation(ring(0, 1.0), iterations=2)
    assert not early.converged and early.iterations == 2 and early.residual > 1e-9


@pytest.mark.parametrize("damping", [0.0, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_loopy_propagation_is_near_on_a_ring(seed: int, damping: float) -> None:
    graph = ring(seed, 0.5)
    found, report = loopy_belief_propagation(graph, damping=damping)
    assert report.converged and report.residual <= 1e-9
    errors = [float((a - b).abs().max()) for a, b in zip(found.marginals, enumerated_marginals(graph), strict=True)]
    assert max(errors) < 0.01
    # On one cycle max-product finds the mode (Weiss 2000), where it converges.
    beliefs, report = loopy_belief_propagation(graph, maximize=True, damping=damping)
    assert report.converged
    mode = torch.tensor([int(belief.argmax()) for belief in beliefs.marginals])
    assert float(graph.log_score(mode[None])) == pytest.approx(by_loops(graph)[2], abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_mean_field_and_bethe_bound_the_partition_function_of_attractive_spins(seed: int) -> None:
    graph = attractive_grid(seed)
    log_partition = float(eliminate(graph, ()))
    found = mean_field(graph)
    assert found.convergence.converged
    assert all(later >= earlier - 1e-12 for earlier, later in itertools.pairwise(found.bounds))
    beliefs, report = loopy_belief_propagation(graph)
    # Bethe's is a lower bound for attractive pairs of two values (Ruozzi 2012), and mean field's always.
    assert report.converged and found.bounds[-1] <= log_partition and float(beliefs.log_partition) <= log_partition
    assert log_partition - float(beliefs.log_partition) < 0.05
    errors = [float((a - b).abs().max()) for a, b in zip(beliefs.marginals, enumerated_marginals(graph), strict=True)]
    assert max(errors) < 0.05


def test_mean_field_is_exact_without_interactions() -> None:
    graph = graph_of((2, 3, 4), [(0,), (1,), (2,), (1,)], 0)
    found = mean_field(graph)
    for q, wanted in zip(found.marginals, enumerated_marginals(graph), strict=True):
        torch.testing.assert_close(q, wanted, **EXACT)
    assert found.bounds[-1] == pytest.approx(float(eliminate(graph, ())), abs=1e-9)
    with pytest.raises(UserError, match="positive factors"):
        mean_field(observe(graph, {0: 1}))


def test_gibbs_sampling_has_the_marginals_of_enumeration() -> None:
    graph, generator = ring(2, 1.0), torch.Generator().manual_seed(0)
    start = random_states(graph, 2000, generator)
    found, last = gibbs_marginals(graph, start, 40, [0.25, 0.5, 0.75, 1.0] * 2, generator)
    for frequency, wanted in zip(found, enumerated_marginals(graph), strict=True):
        assert float((frequency - wanted).abs().sum()) / 2 <= 0.01
    assert last.shape == (2000, 6)


def test_one_sweep_leaves_the_distribution_as_it_is() -> None:
    graph, generator = tree(2), torch.Generator().manual_seed(1)
    joint = joint_log_table(graph)
    drawn = torch.multinomial(joint.flatten().softmax(0), 40_000, replacement=True, generator=generator)
    state = torch.stack(torch.unravel_index(drawn, joint.shape), dim=1)
    after = gibbs_sweep(graph, state, generator)
    pairs = (after[:, 1] * 4 + after[:, 3]).bincount(minlength=12) / 40_000
    wanted = eliminate(graph, (1, 3)).flatten().softmax(0)
    assert float((pairs - wanted).abs().sum()) / 2 <= 0.015


def test_annealing_finds_the_mode() -> None:
    graph, generator = attractive_grid(1), torch.Generator().manual_seed(0)
    best, score = annealed_mode(graph, random_states(graph, 8, generator), [0.2 * 1.2**k for k in range(25)], generator)
    assert float(score) == pytest.approx(by_loops(graph)[2], abs=1e-9)
    assert float(graph.log_score(best[None])) == float(score)


def test_what_does_not_fit_is_told() -> None:
    pair = torch.zeros(2, 2, dtype=torch.float64)
    for variables, message in (((0, 2), "from 0 to 1"), ((1, 1), "different"), ((), "different")):
        with pytest.raises(UserError, match=message):
            FactorGraph((2, 2), (Factor(variables, pair),))
    with pytest.raises(UserError, match=r"make its table \(2, 3\)"):
        FactorGraph((2, 3), (Factor((0, 1), pair),))
    with pytest.raises(UserError, match="has a cycle"):
        belief_propagation(ring(0, 1.0))
    with pytest.raises(UserError, match="joint states"):
        joint_log_table(FactorGraph((2,) * 40, ()))
    with pytest.raises(UserError, match="values 0 to 1"):
        observe(FactorGraph((2, 2), (Factor((0, 1), pair),)), {0: 2})
