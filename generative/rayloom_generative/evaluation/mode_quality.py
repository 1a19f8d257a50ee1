"""How well samples cover a mixture whose modes are known; pure functions of tensors."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class ModeQuality(NamedTuple):
    """Scalars that compare samples with a mixture of equally likely modes."""

    good_fraction: Tensor
    """Share of the samples that are close to a mode."""
    modes_covered: Tensor
    """Modes that have at least one good sample."""
    mode_divergence: Tensor
    """KL divergence (nats) of the good samples' distribution over the modes from the uniform; 0 is best."""


def mode_quality(points: Tensor, modes: Tensor, deviation: float, within: float = 4.0) -> ModeQuality:
    """Compare samples [N, D] with modes [M, D]; good is nearer than `within` deviations to the nearest mode.

    Four standard deviations, as Azadi et al. (2019), "Discriminator rejection sampling": in the plane that takes in
    all but 0.03 % of a perfect model's samples. Without good samples the divergence is that of a single mode, log M.
    """
    distance, nearest = torch.cdist(points, modes).min(dim=1)
    good = distance < within * deviation
    counts = torch.zeros(len(modes), device=points.device).index_add(0, nearest, good.float())
    share = counts / counts.sum()
    alone = torch.tensor(float(len(modes)), device=points.device).log()
    divergence = torch.where(counts.sum() > 0, alone + torch.special.xlogy(share, share).sum(), alone)
    return ModeQuality(good.float().mean(), (counts > 0).sum().float(), divergence)
