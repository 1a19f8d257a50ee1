"""Probabilistic PCA in closed form against scipy and scikit-learn."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA

from rayloom_generative.equations.probabilistic_pca import ProbabilisticPCA, fit, log_likelihood, maximum_log_likelihood


@pytest.fixture
def points() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    mixing = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    return torch.randn(400, 6, generator=generator, dtype=torch.float64) @ mixing.T + torch.arange(6)


def covariance(model: ProbabilisticPCA) -> torch.Tensor:
    return model.weight @ model.weight.T + model.variance * torch.eye(len(model.mean))


@pytest.mark.parametrize("components", [0, 2, 5])
def test_density_equals_the_multivariate_normal(points: torch.Tensor, components: int) -> None:
    model = fit(points, components)
    expected = multivariate_normal(model.mean.numpy(), covariance(model).numpy()).logpdf(points.numpy())
    torch.testing.assert_close(log_likelihood(points, model), torch.from_numpy(expected))


@pytest.mark.parametrize("components", [1, 3])
def test_fit_equals_scikit_learn(points: torch.Tensor, components: int) -> None:
    peer = PCA(components, svd_solver="full").fit(points.numpy())
    # scikit-learn divides by N - 1, the maximum of the likelihood by N.
    unbiased = torch.from_numpy(peer.get_covariance()) * (len(points) - 1) / len(points)
    model = fit(points, components)
    torch.testing.assert_close(covariance(model), unbiased)
    score = float(peer.score(points.numpy()))
    best = float(maximum_log_likelihood(points, components))
    assert score < best < score + 1e-4


@pytest.mark.parametrize("components", [0, 1, 3])
def test_maximum_is_the_fits_likelihood_and_no_neighbour_is_better(points: torch.Tensor, components: int) -> None:
    model = fit(points, components)
    best = float(maximum_log_likelihood(points, components))
    assert float(log_likelihood(points, model).mean()) == pytest.approx(best, rel=1e-12)
    generator = torch.Generator().manual_seed(2)
    for scale in (0.1, 0.01):
        for part in range(3):
            changed = list(model)
            noise = torch.randn(changed[part].shape, generator=generator, dtype=torch.float64)
            changed[part] = changed[part] * (1 + scale) if part == 2 else changed[part] + scale * noise
            if changed[part].numel():
                assert float(log_likelihood(points, ProbabilisticPCA(*changed)).mean()) < best
