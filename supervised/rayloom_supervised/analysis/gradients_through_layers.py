"""How an error travels back through fully connected layers, and why deep networks of sigmoids learn slowly.

Back-propagation of Qiu, *Neural Networks and Deep Learning* (2015): with z(l) = W(l) a(l-1) + b(l) and a(l) = f(z(l)),
the error delta(l) = dL/dz(l) is f'(z(l)) * (W(l+1)^T delta(l+1)), dL/dW(l) = delta(l) a(l-1)^T and dL/db(l) = delta(l).
The logistic function's slope is at most 1/4, so that each such layer shrinks an error; a rectifier's slope is 0 or 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

Squashing = Literal["logistic", "tanh", "relu"]


class LayerGradients(NamedTuple):
    """One layer's error dL/dz [B, outputs], and the gradients of its weight [outputs, inputs] and bias [outputs]."""

    error: Tensor
    weight: Tensor
    bias: Tensor


_FUNCTIONS: dict[Squashing, Callable[[Tensor], Tensor]] = {
    "logistic": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
}
# Each slope f'(z) as a function of a = f(z).
_SLOPES: dict[Squashing, Callable[[Tensor], Tensor]] = {
    "logistic": lambda value: value * (1 - value),
    "tanh": lambda value: 1 - value.square(),
    "relu": lambda value: (value > 0).to(value.dtype),
}


def activations_of_layers(layers: Sequence[nn.Linear], activation: Squashing, inputs: Tensor) -> list[Tensor]:
    """Return a(0) = `inputs` [B, F], a(1), ... and last the output z(L), to which no activation is applied."""
    values = [inputs]
    for layer in layers[:-1]:
        values.append(_FUNCTIONS[activation](layer(values[-1])))
    return [*values, layers[-1](values[-1])]


@torch.no_grad()
def gradients_of_layers(
    layers: Sequence[nn.Linear], activation: Squashing, inputs: Tensor, error: Tensor
) -> list[LayerGradients]:
    """Return each layer's gradients, first layer first, for an error dL/dz(L) [B, outputs] after inputs [B, F].

    It is the recursion of the equations, without automatic differentiation.
    """
    values = activations_of_layers(layers, activation, inputs)
    gradients: list[LayerGradients] = []
    for index in range(len(layers) - 1, -1, -1):
        gradients.append(LayerGradients(error, error.T @ values[index], error.sum(0)))
        if index > 0:
            error = _SLOPES[activation](values[index]) * (error @ layers[index].weight)
    return gradients[::-1]


def growth_of_layers(gradients: Sequence[LayerGradients]) -> float:
    """Return the factor by which an error's mean length changes with each layer back, as a geometric mean."""
    first, last = gradients[0].error.norm(dim=1).mean(), gradients[-2].error.norm(dim=1).mean()
    return float((first / last) ** (1 / (len(gradients) - 2)))
