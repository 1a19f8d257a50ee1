"""Distributions of returns: their means, projections and losses, per example."""

from __future__ import annotations

import torch
from torch import Tensor


def discounted_sums(rewards: Tensor, gamma: float) -> Tensor:
    """Return sum_k gamma^k r_k [B] of segments of rewards [B, n], 0 after their ends."""
    return rewards @ gamma ** torch.arange(rewards.shape[1], device=rewards.device, dtype=rewards.dtype)


def categorical_projection(support: Tensor, probabilities: Tensor, returns: Tensor, discounts: Tensor) -> Tensor:
    """Return the distribution [B, K] of returns + discounts * Z on the support [K] (Bellemare et al. 2017, equation 7).

    Z takes the values of the evenly spaced support with `probabilities` [B, K]; `returns` and `discounts` are [B]. What
    falls between two atoms is shared by its distance to them, what falls outside goes to the last ones.
    """
    low, high = support[0], support[-1]
    spacing = (high - low) / (len(support) - 1)
    moved = (returns.unsqueeze(1) + discounts.unsqueeze(1) * support).clamp(min=low, max=high)
    place = (moved - low) / spacing  # [B, K] in 0..K-1
    atoms = torch.arange(len(support), device=support.device, dtype=place.dtype)
    share = (1 - (place.unsqueeze(2) - atoms).abs()).clamp(min=0)  # [B, from, to]
    found: Tensor = torch.einsum("bj,bji->bi", probabilities, share)
    return found


def quantile_huber(quantiles: Tensor, targets: Tensor, threshold: float = 1.0) -> Tensor:
    """Return the quantile Huber loss [B] of quantiles [B, K] to target samples [B, M].

    Dabney et al. 2018, equation 10. Quantile i estimates the level (2 i + 1) / 2 K; the loss is summed over quantiles
    and averaged over targets.
    """
    count = quantiles.shape[1]
    levels = (torch.arange(count, device=quantiles.device, dtype=quantiles.dtype) + 0.5) / count
    error = targets.unsqueeze(1) - quantiles.unsqueeze(2)  # [B, K, M]
    size = error.abs()
    inner = size.clamp(max=threshold)
    huber = 0.5 * inner.square() + threshold * (size - inner)
    weight = (levels.view(1, -1, 1) - (error.detach() < 0).to(error.dtype)).abs()
    return (weight * huber / threshold).mean(2).sum(1)
