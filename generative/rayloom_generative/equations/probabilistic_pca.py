"""Probabilistic PCA in closed form: Tipping and Bishop (1999), "Probabilistic principal component analysis".

x = W z + mean + noise with z ~ N(0, 1) [L] and noise ~ N(0, variance) in each of D coordinates. Pure functions, in the
type of their arguments; float64 recommended.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class ProbabilisticPCA(NamedTuple):
    """The parameters of the model."""

    mean: Tensor
    """[D]."""
    weight: Tensor
    """W [D, L]; the columns are orthogonal after `fit`."""
    variance: Tensor
    """Noise of each coordinate, scalar."""


def _spectrum(points: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues [D], largest first, and eigenvectors [D, D] of the points' covariance (divided by N)."""
    centred = points - points.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(points))
    return values.flip(0), vectors.flip(1)


def fit(points: Tensor, components: int) -> ProbabilisticPCA:
    """Return the parameters of maximum likelihood for points [N, D] and 0 <= components < D (equations 7 and 8)."""
    assert 0 <= components < points.shape[1], "pPCA leaves at least one direction to the noise"
    values, vectors = _spectrum(points)
    variance = values[components:].mean()
    weight = vectors[:, :components] * (values[:components] - variance).sqrt()
    return ProbabilisticPCA(points.mean(0), weight, variance)


def log_likelihood(points: Tensor, model: ProbabilisticPCA) -> Tensor:
    """Return log p(x) of points [N, D] in nats, [N], with any weight, under C = W W' + variance (equation 4)."""
    size = points.shape[1]
    identity = torch.eye(size, dtype=points.dtype, device=points.device)
    factor = torch.linalg.cholesky(model.weight @ model.weight.T + model.variance * identity)
    whitened = torch.linalg.solve_triangular(factor, (points - model.mean).T, upper=False)
    constant = factor.diagonal().log().sum() + 0.5 * size * math.log(2 * math.pi)
    density: Tensor = -0.5 * whitened.square().sum(0) - constant
    return density


def maximum_log_likelihood(points: Tensor, components: int) -> Tensor:
    """Return the mean of log p(x) over points [N, D] at the maximum, a scalar in nats, from the spectrum alone."""
    values, _ = _spectrum(points)
    size = len(values)
    variance = values[components:].mean()
    log_determinant = values[:components].log().sum() + (size - components) * variance.log()
    return -0.5 * (size * math.log(2 * math.pi) + log_determinant + size)
