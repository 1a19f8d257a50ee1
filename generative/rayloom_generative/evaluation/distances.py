"""Distances between two sets of features, and how much of one the other covers; pure functions, in float64."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def frechet_distance(first: Tensor, second: Tensor) -> Tensor:
    """Return the squared Fréchet distance of the normals with the moments of features [N, F] and [M, F].

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)): Dowson and Landau (1982), equation 4; Heusel et al. (2017).
    """
    (mean, covariance), (other_mean, other_covariance) = _moments(first), _moments(second)
    # (C1 C2)^(1/2) has the trace of (R C2 R)^(1/2) with the symmetric root R of C1, whose eigenvalues are real.
    values, vectors = torch.linalg.eigh(covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    shared = torch.linalg.eigvalsh(root @ other_covariance @ root).clamp(min=0).sqrt().sum()
    distance: Tensor = (mean - other_mean).square().sum() + covariance.trace() + other_covariance.trace() - 2 * shared
    return distance.clamp(min=0)


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean [F] and the unbiased covariance [F, F] of features [N, F]."""
    features = features.double()
    return features.mean(0), torch.atleast_2d(torch.cov(features.T))  # type: ignore[no-untyped-call]


def kernel_distance(first: Tensor, second: Tensor) -> Tensor:
    """Return the unbiased squared maximum mean discrepancy of features [N, F] and [M, F]; it may be below 0.

    With the kernel (x.y / F + 1)^3: Bińkowski et al. (2018), "Demystifying MMD GANs".
    """
    first, second = first.double(), second.double()

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: Tensor) -> Tensor:
        values = kernel(x, x)
        return (values.sum() - values.trace()) / (len(x) * (len(x) - 1))

    return within(first) + within(second) - 2 * kernel(first, second).mean()


class Coverage(NamedTuple):
    """How two sets cover each other."""

    precision: Tensor
    """Share of the samples inside the manifold of the data."""
    recall: Tensor
    """Share of the data inside the manifold of the samples."""


def precision_and_recall(data: Tensor, samples: Tensor, neighbors: int = 3) -> Coverage:
    """Compare features [N, F] of data with those [M, F] of samples: Kynkäänniemi et al. (2019), equations 1 and 2.

    The manifold of a set is the union of balls around its members that reach to their k-th nearest neighbours in it.
    """
    data, samples = data.double(), samples.double()
    between = _distances(samples, data)
    inside_data = (between <= _radii(data, neighbors)).any(1)
    inside_samples = (_radii(samples, neighbors) >= between.T).any(1)
    return Coverage(inside_data.double().mean(), inside_samples.double().mean())


def _radii(features: Tensor, neighbors: int) -> Tensor:
    """Return the distance [N] of each member to its k-th nearest neighbour."""
    return _distances(features, features).kthvalue(neighbors + 1, dim=1).values  # the first one is itself


def nearest(queries: Tensor, members: Tensor) -> Tensor:
    """Return the index [Q] of the member [N, F] that is nearest to each query [Q, F]."""
    return _distances(queries.double(), members.double()).argmin(1)


def _distances(first: Tensor, second: Tensor) -> Tensor:
    # The exact form: with the matrix product a member would not be at the distance 0 from itself.
    return torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")
