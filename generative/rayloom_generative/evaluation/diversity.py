"""How far samples lie apart, compared with the data; pure functions of tensors."""

from __future__ import annotations

import torch
from torch import Tensor

_MOST = 512  # examples whose pairs are looked at


def mean_pairwise_distance(examples: Tensor) -> Tensor:
    """Return the mean Euclidean distance of two different examples of [N, ...], of the first 512; 0 for one."""
    flat = examples[:_MOST].flatten(1)
    count = len(flat)
    distance: Tensor = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist").sum()
    return distance / max(1, count * (count - 1))


def relative_diversity(samples: Tensor, data: Tensor) -> Tensor:
    """Return the mean distance of two samples as a share of that of two examples of the data; 1 is right."""
    return mean_pairwise_distance(samples) / mean_pairwise_distance(data).clamp(min=torch.finfo(torch.float32).tiny)
