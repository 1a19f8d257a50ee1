"""Batch normalisation over the whole global batch: Ioffe and Szegedy (2015), "Batch normalization"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Total = Callable[[Tensor], Tensor]
"""Returns the sum of a tensor over all learners, as `Algorithm.sum_over_learners`: of one learner the tensor itself."""


def _same(tensor: Tensor) -> Tensor:
    return tensor


class _SumOverLearners(torch.autograd.Function):
    """The sum over all learners, whose derivative is the sum of all learners' derivatives."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, total: Total) -> Tensor:
        ctx.total = total
        return total(value).clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.total(gradients[0].contiguous()), None


class GlobalBatchNorm(nn.Module):
    """Normalises each channel by its mean and variance over the batches of all learners; K of them repeat one.

    `total` must be set to the algorithm's `sum_over_learners` where there are several. In evaluation mode it uses
    running averages, which are buffers and equal on all learners. It changes them in every forward pass of the
    training, so that a phase with such a layer cannot be compiled; and it couples the examples of a batch, so that a
    gradient by one example's input is not its own.
    """

    running_mean: Tensor
    running_variance: Tensor

    def __init__(self, channels: int, momentum: float = 0.1, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_variance", torch.ones(channels))
        self.momentum, self.epsilon = momentum, epsilon
        self.total: Total = _same

    def forward(self, inputs: Tensor) -> Tensor:
        """Map [B, C, ...] to the same shape."""
        if self.training:
            # Asked in any case, since whoever sums is where a batch that is not the whole one is refused.
            own = self.weight.new_full((1,), inputs.numel() / inputs.shape[1])
            count = self.total(own)
            # torch refuses a channel of one value, whose normalised form is 0.
            if count is not own or inputs.numel() == inputs.shape[1]:
                return self._over_learners(inputs, count)
        # No other learner's batch is needed: torch's own kernel computes the same in fewer passes over the memory.
        return F.batch_norm(
            inputs,
            self.running_mean,
            self.running_variance,
            self.weight,
            self.bias,
            self.training,
            self.momentum,
            self.epsilon,
        )

    def _over_learners(self, inputs: Tensor, count: Tensor) -> Tensor:
        """Normalise by the moments of the global batch of `count` values a channel; running averages follow them."""
        shape, dims = (1, -1, *[1] * (inputs.ndim - 2)), (0, *range(2, inputs.ndim))
        wide = inputs.to(self.weight.dtype)  # sums of bfloat16 numbers would lose most of their bits
        mean = self._sum(wide.sum(dims)) / count
        centred = wide - mean.reshape(shape)
        variance = self._sum(centred.square().sum(dims)) / count
        with torch.no_grad():
            # The running variance is the unbiased one, as in torch.nn.BatchNorm2d.
            unbiased = variance * count / (count - 1).clamp(min=1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_variance.lerp_(unbiased, self.momentum)
        scale = self.weight * (variance + self.epsilon).rsqrt()
        return (centred * scale.reshape(shape) + self.bias.reshape(shape)).to(inputs.dtype)

    def _sum(self, own: Tensor) -> Tensor:
        total: Tensor = _SumOverLearners.apply(own, self.total)  # type: ignore[no-untyped-call]
        return total


def share_statistics(network: nn.Module, total: Total) -> None:
    """Let all batch norms of a network use the batches of all learners; `total` sums over them."""

    # A closure and no bound method, which a copy of the network would take its owner with.
    def summed(tensor: Tensor) -> Tensor:
        return total(tensor)

    for layer in network.modules():
        if isinstance(layer, GlobalBatchNorm):
            layer.total = summed


def couples_examples(network: nn.Module) -> bool:
    """Return whether a network has a layer that normalises over the examples of a batch."""
    return any(isinstance(layer, GlobalBatchNorm | nn.modules.batchnorm._BatchNorm) for layer in network.modules())
