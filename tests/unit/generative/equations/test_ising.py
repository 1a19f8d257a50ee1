"""Spins on a grid against factor graphs and enumeration."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from rayloom_generative.equations.ising import (
    Couplings,
    energy,
    gibbs_sweep,
    iterated_conditional_modes,
    loopy_magnetizations,
    neighbour_sum,
    pseudo_log_likelihood,
)
from rayloom_generative.graphical.belief_propagation import loopy_belief_propagation
from rayloom_generative.graphical.factors import Factor, FactorGraph, joint_log_table

HEIGHT, WIDTH = 3, 4


def problem(seed: int, scale: float = 0.5) -> tuple[Tensor, Couplings]:
    generator = torch.Generator().manual_seed(seed)
    field, right, down = (
        scale * torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((HEIGHT, WIDTH), (HEIGHT, WIDTH - 1), (HEIGHT - 1, WIDTH))
    )
    return field, Couplings(right, down)


def factor_graph(field: Tensor, couplings: Couplings) -> FactorGraph:
    spin = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    factors = []
    for row, column in itertools.product(range(HEIGHT), range(WIDTH)):
        here = row * WIDTH + column
        factors.append(Factor((here,), field[row, column] * spin))
        if column + 1 < WIDTH:
            factors.append(Factor((here, here + 1), couplings.right[row, column] * torch.outer(spin, spin)))
        if row + 1 < HEIGHT:
            factors.append(Factor((here, here + WIDTH), couplings.down[row, column] * torch.outer(spin, spin)))
    return FactorGraph((2,) * HEIGHT * WIDTH, tuple(factors))


def all_spins() -> Tensor:
    states = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * (HEIGHT * WIDTH))
    return states.view(-1, HEIGHT, WIDTH)


def test_the_energy_is_minus_the_log_score_of_the_factor_graph() -> None:
    field, couplings = problem(0)
    scores = joint_log_table(factor_graph(field, couplings)).flatten()
    torch.testing.assert_close(-energy(all_spins(), field, couplings), scores)


def test_the_pseudo_likelihood_is_the_product_of_all_conditionals() -> None:
    field, couplings = problem(1)
    joint = joint_log_table(factor_graph(field, couplings))
    expected = sum((joint.log_softmax(axis) for axis in range(joint.ndim)), torch.zeros_like(joint))
    torch.testing.assert_close(pseudo_log_likelihood(all_spins(), field, couplings), expected.flatten())


@pytest.mark.parametrize("damping", [0.0, 0.4])
def test_loopy_propagation_has_the_fixed_point_of_that_on_factor_graphs(damping: float) -> None:
    field, couplings = problem(2)
    beliefs, report = loopy_belief_propagation(factor_graph(field, couplings), tolerance=1e-12)
    found = loopy_magnetizations(torch.stack((field, field.flip(1))), couplings, 300, damping)
    assert report.converged and float(found.residual) < 1e-9
    expected = torch.stack([belief[1] - belief[0] for belief in beliefs.marginals]).view(HEIGHT, WIDTH)
    torch.testing.assert_close(found.mean[0], expected, rtol=0, atol=1e-8)


def test_conditional_modes_lower_the_energy_to_a_local_optimum() -> None:
    field, couplings = problem(3, 1.0)
    generator = torch.Generator().manual_seed(0)
    spins = 2.0 * torch.randint(2, (50, HEIGHT, WIDTH), generator=generator).double() - 1
    energies = [energy(iterated_conditional_modes(spins, field, couplings, sweeps), field, couplings)
                for sweeps in range(8)]  # fmt: skip
    assert all(bool((later <= earlier + 1e-12).all()) for earlier, later in itertools.pairwise(energies))
    optimum = iterated_conditional_modes(spins, field, couplings, 8)
    assert torch.equal(optimum, (field + neighbour_sum(optimum, couplings)).sign())


def test_gibbs_sampling_has_the_exact_means() -> None:
    field, couplings = problem(4)
    probability = (-energy(all_spins(), field, couplings)).softmax(0)
    expected = torch.einsum("s,shw->hw", probability, all_spins())
    generator = torch.Generator().manual_seed(0)
    spins = torch.ones(3000, HEIGHT, WIDTH, dtype=torch.float64)
    total = torch.zeros(HEIGHT, WIDTH, dtype=torch.float64)
    for sweep in range(40):
        spins = gibbs_sweep(spins, field, couplings, generator)
        total += spins.mean(0) if sweep >= 10 else 0
    # Half the difference of means is the total variation of one spin.
    assert float((total / 30 - expected).abs().max()) / 2 <= 0.01
