"""Annealed importance sampling against enumerated partition functions."""

from __future__ import annotations

import pytest
import torch

from rayloom_generative.equations.boltzmann import restricted_log_partition
from rayloom_generative.evaluation.annealed_importance_sampling import base_biases, log_partition, temperatures
from rayloom_generative.networks.restricted_boltzmann import RestrictedBoltzmannMachine


def machine(visible: int, hidden: int, scale: float) -> RestrictedBoltzmannMachine:
    torch.manual_seed(1)
    made = RestrictedBoltzmannMachine(visible, hidden)
    with torch.no_grad():
        made.weight.copy_(scale * torch.randn(visible, hidden))
        made.visible_bias.copy_(torch.randn(visible))
        made.hidden_bias.copy_(torch.randn(hidden) - 1)
    return made


@pytest.mark.parametrize(("hidden", "scale"), [(12, 0.3), (16, 0.5), (20, 0.4)])
def test_the_estimate_is_within_a_tenth_of_a_nat(hidden: int, scale: float) -> None:
    found = machine(40, hidden, scale)
    exact = restricted_log_partition(found.weight, found.visible_bias, found.hidden_bias)
    base = torch.randn(40, generator=torch.Generator().manual_seed(5))
    estimate = log_partition(found, base, 200, temperatures(1000), torch.Generator().manual_seed(0))
    assert float(estimate.log_partition) == pytest.approx(float(exact), abs=0.1)
    assert 0 < float(estimate.error) < 0.1
    assert 20 < float(estimate.effective_chains) <= 200


def test_a_machine_of_independent_bits_is_exact_at_any_temperatures() -> None:
    found = machine(6, 4, 0.0)
    exact = restricted_log_partition(found.weight, found.visible_bias, found.hidden_bias)
    estimate = log_partition(found, found.visible_bias.detach(), 5, temperatures(3), torch.Generator().manual_seed(0))
    assert float(estimate.log_partition) == pytest.approx(float(exact), rel=1e-6)
    assert float(estimate.error) == pytest.approx(0, abs=1e-5)


def test_temperatures_rise_from_zero_to_one() -> None:
    betas = temperatures(50)
    assert (float(betas[0]), float(betas[-1]), len(betas)) == (0.0, 1.0, 50)
    assert bool((betas.diff() > 0).all()) and float(betas.diff()[0]) > 10 * float(betas.diff()[-1])


def test_base_biases_are_the_log_odds_away_from_certainty() -> None:
    found = torch.sigmoid(base_biases(torch.tensor([0.0, 0.25, 1.0])))
    assert found.tolist() == pytest.approx([0.01, 0.25, 0.99])
