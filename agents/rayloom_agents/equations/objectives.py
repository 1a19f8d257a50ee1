"""Objectives as pure functions of tensors that return one value per example [B]."""

from __future__ import annotations

import torch
from torch import Tensor


def clipped_surrogate(
    log_probability: Tensor, old_log_probability: Tensor, advantage: Tensor, clip_range: float
) -> tuple[Tensor, Tensor]:
    """Return PPO's clipped surrogate objective [B], to be maximised, and the probability ratio [B].

    L = min(r A, clip(r, 1 - eps, 1 + eps) A) with r = pi / pi_old (Schulman et al. 2017, equation 7).
    """
    ratio = torch.exp(log_probability - old_log_probability)
    clipped = ratio.clamp(1.0 - clip_range, 1.0 + clip_range)
    return torch.minimum(ratio * advantage, clipped * advantage), ratio


def huber(error: Tensor, threshold: float = 1.0) -> Tensor:
    """Return the Huber loss of errors, elementwise: quadratic up to the threshold, linear beyond (Mnih et al. 2015)."""
    size = error.abs()
    quadratic = size.clamp(max=threshold)
    return 0.5 * quadratic.square() + threshold * (size - quadratic)


def clipped_squared_error(value: Tensor, old_value: Tensor, target: Tensor, clip_range: float) -> Tensor:
    """Return the larger one of the squared errors [B] of a value and of the value held near the old one.

    max((V - R)^2, (clip(V, V_old - eps, V_old + eps) - R)^2): Engstrom et al. 2020, "Implementation matters in deep
    policy gradients", section 3. Nothing is gained by moving a value further than eps in one rollout.
    """
    held = old_value + (value - old_value).clamp(-clip_range, clip_range)
    return torch.maximum((value - target).square(), (held - target).square())
