"""Codes with few coefficients for a given dictionary: min over a of 1/2 |x - a D|^2 + penalty |a|_1; pure functions."""

from __future__ import annotations

import torch
from torch import Tensor


def soft_threshold(values: Tensor, threshold: Tensor | float) -> Tensor:
    """Return values moved towards 0 by the threshold, and 0 where they are nearer than that."""
    return values.sign() * (values.abs() - threshold).clamp(min=0)


def iterative_shrinkage(data: Tensor, dictionary: Tensor, penalty: float, steps: int) -> Tensor:
    """Return codes [B, A] of data [B, D] for a dictionary [A, D], by `steps` steps from 0.

    A gradient step of length 1 / L on the squared error, then shrinkage (Daubechies et al. 2004), with the momentum of
    Beck and Teboulle (2009), which makes the error fall as 1 / steps^2. L is the largest eigenvalue of D D'.
    """
    gram, correlation = dictionary @ dictionary.T, data @ dictionary.T
    largest = torch.linalg.matrix_norm(dictionary, 2).square().clamp(min=1e-12)
    codes = ahead = torch.zeros_like(correlation)
    inertia = 1.0
    for _ in range(steps):
        before, codes = codes, soft_threshold(ahead + (correlation - ahead @ gram) / largest, penalty / largest)
        following = 0.5 * (1 + (1 + 4 * inertia**2) ** 0.5)
        ahead = codes + (inertia - 1) / following * (codes - before)
        inertia = following
    return codes


def objective(data: Tensor, codes: Tensor, dictionary: Tensor, penalty: float) -> Tensor:
    """Return what the codes [B, A] cost, [B]."""
    return 0.5 * (data - codes @ dictionary).square().sum(1) + penalty * codes.abs().sum(1)
