"""Mixtures of K normal distributions in D dimensions: densities and the maximisation step, pure functions."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def log_joint(points: Tensor, weights: Tensor, means: Tensor, covariances: Tensor) -> Tensor:
    """Return log p(x, k) [B, K] of points [B, D], for weights [K], means [K, D] and covariances [K, D, D] or [K, D].

    The latter are the variances of independent coordinates.
    """
    centred = points[:, None] - means
    if covariances.ndim == 2:
        square = (centred.square() / covariances).sum(-1)
        log_determinant = covariances.log().sum(1)
    else:
        factors = torch.linalg.cholesky(covariances)
        whitened: Tensor = torch.linalg.solve_triangular(factors, centred.permute(1, 2, 0), upper=False)
        square = whitened.square().sum(1).T
        log_determinant = 2 * factors.diagonal(dim1=1, dim2=2).log().sum(1)
    joint: Tensor = weights.log() - 0.5 * (points.shape[1] * math.log(2 * math.pi) + log_determinant + square)
    return joint


def moments(points: Tensor, shares: Tensor, diagonal: bool) -> dict[str, Tensor]:
    """Return the sums over points [B, D] of shares [B, K], and of the first and second moments that they weigh."""
    second = shares.T @ points.square() if diagonal else torch.einsum("bk,bi,bj->kij", shares, points, points)
    return {"shares": shares.sum(0), "first": shares.T @ points, "second": second}


def maximise(sums: dict[str, Tensor], count: float, ridge: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weights, means and covariances of maximum likelihood for the moments; `ridge` is added to variances.

    A component without a share keeps a weight above 0, so that its density exists.
    """
    shares = sums["shares"] + 10 * torch.finfo(sums["shares"].dtype).eps
    means = sums["first"] / shares[:, None]
    if sums["second"].ndim == 2:
        covariances = sums["second"] / shares[:, None] - means.square() + ridge
    else:
        covariances = sums["second"] / shares[:, None, None] - means[:, :, None] * means[:, None, :]
        covariances = covariances + ridge * torch.eye(means.shape[1], dtype=means.dtype, device=means.device)
    return shares / count, means, covariances
