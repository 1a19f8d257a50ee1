"""Measures of regression as pure functions of tensors."""

from __future__ import annotations

import torch
from torch import Tensor


def determination(prediction: Tensor, target: Tensor) -> Tensor:
    """Return R^2 = 1 - sum (y - f)^2 / sum (y - mean y)^2 of predictions and targets [N].

    0 where all targets are equal and the predictions are not; 1 where both are.
    """
    prediction, target = prediction.double(), target.double()
    residual = (target - prediction).square().sum()
    total = (target - target.mean()).square().sum()
    exact = (residual == 0).to(residual.dtype)
    return torch.where(total > 0, 1 - residual / total.clamp(min=torch.finfo(total.dtype).tiny), exact)
