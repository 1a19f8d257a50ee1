"""The pen's density against torch.distributions, its integral, its samples, and the bias towards likely points."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from rayloom_supervised.layers.mixture_density import PenDensity, pen_density, pen_outputs

M, K = 4, 3


def outputs(*shape: int) -> Tensor:
    return 0.7 * torch.randn(*shape, pen_outputs(M, K), generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def peer(density: PenDensity) -> MixtureSameFamily:
    scales = density.log_scales.exp()
    across = density.correlations * scales[..., 0] * scales[..., 1]
    rows = torch.stack((scales[..., 0] ** 2, across), -1), torch.stack((across, scales[..., 1] ** 2), -1)
    normals = MultivariateNormal(density.means, torch.stack(rows, -2))
    return MixtureSameFamily(Categorical(logits=density.log_weights), normals)


@pytest.mark.parametrize("bias", [0.0, 1.5])
def test_the_log_density_is_torchs(bias: float) -> None:
    density = pen_density(outputs(5, 7), M, bias)
    offset = torch.randn(5, 7, 2, dtype=torch.float64)
    torch.testing.assert_close(density.log_offset(offset), peer(density).log_prob(offset), rtol=1e-11, atol=1e-11)
    pen = torch.randint(K, (5, 7))
    with_pen = peer(density).log_prob(offset) + Categorical(logits=density.log_pen).log_prob(pen)
    torch.testing.assert_close(density.log_step(offset, pen), with_pen, rtol=1e-11, atol=1e-11)


def test_the_density_integrates_to_one() -> None:
    density = pen_density(outputs(1) / 2, M)
    side = torch.linspace(-20, 20, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    wide = PenDensity(*(part.expand(len(grid), *part.shape[1:]) for part in density))
    total = sum(float(wide.log_step(grid, torch.full((len(grid),), pen)).exp().sum()) for pen in range(K))
    assert total * 0.1**2 == pytest.approx(1, abs=1e-6)


def test_samples_have_the_moments_of_the_density() -> None:
    density = PenDensity(*(part.expand(40_000, *part.shape[1:]) for part in pen_density(outputs(1), M)))
    offset, pen = density.sample(torch.Generator().manual_seed(0))
    weights, one = density.log_weights[0].exp(), peer(PenDensity(*(part[0] for part in density)))
    torch.testing.assert_close(offset.mean(dim=0), one.mean, rtol=0, atol=0.03)
    covariances = (
        one.component_distribution.covariance_matrix + density.means[0, :, :, None] * density.means[0, :, None]
    )
    second = (weights[:, None, None] * covariances).sum(dim=0) - one.mean[:, None] * one.mean
    torch.testing.assert_close(offset.T.cov(), second, rtol=0.05, atol=0.05)
    torch.testing.assert_close(pen.bincount(minlength=K) / 40_000, density.log_pen[0].exp().float(), rtol=0, atol=0.01)


def test_a_bias_sharpens_as_graves_wrote() -> None:
    raw = outputs(1)
    plain, biased = pen_density(raw, M), pen_density(raw, M, 2.0)
    torch.testing.assert_close(biased.log_scales, plain.log_scales - 2)
    torch.testing.assert_close(biased.log_weights, torch.log_softmax(raw[..., :M] * 3, dim=-1))
    assert torch.equal(biased.means, plain.means) and torch.equal(biased.correlations, plain.correlations)
    assert float(biased.log_pen.max()) > float(plain.log_pen.max())


def test_outputs_of_any_size_have_a_finite_density_and_gradient() -> None:
    raw = (1000 * outputs(50)).requires_grad_()
    nats = pen_density(raw, M).log_step(torch.zeros(50, 2, dtype=torch.float64), torch.zeros(50, dtype=torch.int64))
    (gradient,) = torch.autograd.grad(nats.sum(), raw)
    assert bool(nats.isfinite().all()) and bool(gradient.isfinite().all())
