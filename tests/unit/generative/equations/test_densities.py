"""Log-densities and bounds against torch.distributions and numbers by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from rayloom_generative.equations.densities import (
    bernoulli_entropy,
    bernoulli_log_density,
    gaussian_log_density,
    importance_weighted_bound,
    standard_normal_divergences,
)


@pytest.fixture
def normals() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(3, 6, 4, generator=generator, dtype=torch.float64)
    return drawn[0], drawn[1], drawn[2]


def test_divergence_from_the_standard_normal(normals: tuple[torch.Tensor, ...]) -> None:
    mean, log_variance, _ = normals
    expected = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(standard_normal_divergences(mean, log_variance).sum(1), expected)
    assert standard_normal_divergences(torch.zeros(1, 3), torch.zeros(1, 3)).tolist() == [[0.0] * 3]
    # 1/2 (mean^2 + variance - 1 - log variance) with mean 2 and variance e.
    by_hand = standard_normal_divergences(torch.tensor([[2.0]]), torch.tensor([[1.0]]))
    assert by_hand.item() == pytest.approx(0.5 * (4 + math.e - 2))


def test_entropy_of_bits() -> None:
    probabilities = torch.tensor([[0.0, 0.5, 1.0], [0.1, 0.25, 0.9]], dtype=torch.float64)
    torch.testing.assert_close(bernoulli_entropy(probabilities), Bernoulli(probabilities).entropy().sum(1))
    assert float(bernoulli_entropy(probabilities)[0]) == pytest.approx(math.log(2))


def test_gaussian_density(normals: tuple[torch.Tensor, ...]) -> None:
    data, mean, log_variance = normals
    expected = Normal(mean, (0.5 * log_variance).exp()).log_prob(data).sum(1)
    torch.testing.assert_close(gaussian_log_density(data, mean, log_variance), expected)
    shared = log_variance[0, 0]
    expected = Normal(mean, (0.5 * shared).exp()).log_prob(data).sum(1)
    torch.testing.assert_close(gaussian_log_density(data, mean, shared), expected)


def test_bernoulli_density(normals: tuple[torch.Tensor, ...]) -> None:
    logits, other, _ = normals
    bits = (other > 0).double()
    expected = Bernoulli(logits=logits).log_prob(bits).sum(1)
    torch.testing.assert_close(bernoulli_log_density(bits, logits), expected)
    samples = logits.expand(3, 6, 4)
    torch.testing.assert_close(bernoulli_log_density(bits, samples), expected.expand(3, 6))


def test_importance_weighted_bound_by_hand() -> None:
    log_weights = torch.tensor([[0.2, -1000.0], [0.6, -1000.0]]).double()
    log_weights[:, 0].log_()
    bound = importance_weighted_bound(log_weights)
    assert bound.tolist() == pytest.approx([math.log(0.4), -1000.0])
    assert importance_weighted_bound(log_weights[:1]).tolist() == pytest.approx([math.log(0.2), -1000.0])
