"""Objectives of generative adversarial networks, per example; scores are logits or a critic's values, [B]."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

WALK_STEPS = 8
"""Pictures on a walk from one image to the next."""


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return -log D(x) - log(1 - D(G(z))), with the logits of D: Goodfellow et al. (2014), equation 1."""
    return F.softplus(-real) + F.softplus(fake)


def minimax_generator_loss(fake: Tensor) -> Tensor:
    """Return log(1 - D(G(z))): Goodfellow et al. (2014), equation 1; it is flat where the discriminator wins."""
    return -F.softplus(fake)


def non_saturating_generator_loss(fake: Tensor) -> Tensor:
    """Return -log D(G(z)): Goodfellow et al. (2014), section 3."""
    return F.softplus(-fake)


def jensen_shannon_bound(real: Tensor, fake: Tensor) -> Tensor:
    """Return each pair's part of a lower bound on the Jensen-Shannon divergence (nats), tight for the best D.

    Of theorem 1 of Goodfellow et al. (2014): the divergence is log 2 minus half the least loss of the discriminator.
    """
    return math.log(2) - 0.5 * discriminator_loss(real, fake)


def interpolate(real: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """Return share * real + (1 - share) * fake for examples [B, ...] and shares [B]."""
    share = share.reshape(-1, *[1] * (real.ndim - 1))
    return share * real + (1 - share) * fake


def arc(first: Tensor, last: Tensor, steps: int) -> Tensor:
    """Return codes [steps, B, L] from the first [B, L] to the last, on cos(t) first + sin(t) last.

    Of independent standard normal ends every code on the way is standard normal too, which is not so on a line.
    """
    angle = torch.linspace(0, math.pi / 2, steps, device=first.device).reshape(-1, *[1] * first.ndim)
    return angle.cos() * first + angle.sin() * last


def round_trip(codes: Tensor, steps: int) -> Tensor:
    """Return codes [B * steps, L] that pass all of [B, L] on arcs and come back, with `steps` from each to the next."""
    return arc(codes, codes.roll(-1, 0), steps + 1)[:-1].transpose(0, 1).flatten(0, 1)
