"""The parameters of one phase as views of one flat tensor, and their gradients alike."""

from __future__ import annotations

import math

import torch

_ALIGNMENT = 16  # float32 elements: views start at multiples of a cache line


class FlatParameters:
    """The parameters of one phase as views of one flat tensor, with their gradients alike.

    Behind the gradient, in the same memory, there is room for a number that is to be summed along with it.
    """

    def __init__(self, parameters: tuple[torch.nn.Parameter, ...]) -> None:
        sizes = [math.ceil(p.numel() / _ALIGNMENT) * _ALIGNMENT for p in parameters]
        first = parameters[0]
        self.parameters = parameters
        self.flat = torch.nn.Parameter(torch.zeros(sum(sizes), dtype=first.dtype, device=first.device))
        self.summed = torch.zeros(len(self.flat) + _ALIGNMENT, dtype=first.dtype, device=first.device)
        self.gradient, self.count = self.summed[: len(self.flat)], self.summed[len(self.flat)]
        self.flat.grad = self.gradient
        offset = 0
        for parameter, size in zip(parameters, sizes, strict=True):
            assert parameter.dtype == first.dtype and parameter.device == first.device
            window = slice(offset, offset + parameter.numel())
            view = self.flat.data[window].view(parameter.shape)
            view.copy_(parameter.data)
            parameter.data = view
            parameter.grad = self.gradient[window].view(parameter.shape)
            offset += size
