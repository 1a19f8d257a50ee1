"""The recursion of back-propagation against automatic differentiation, and the fate of errors in deep networks."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from rayloom_supervised.analysis.gradients_through_layers import (
    Squashing,
    activations_of_layers,
    gradients_of_layers,
    growth_of_layers,
)


def _layers(sizes: list[int], gain: float = 1.0) -> list[nn.Linear]:
    torch.manual_seed(3)
    layers = [nn.Linear(inputs, outputs).double() for inputs, outputs in pairwise(sizes)]
    for layer in layers:
        nn.init.normal_(layer.weight, std=gain / layer.in_features**0.5)
    return layers


def _error(outputs: Tensor, label: Tensor) -> Tensor:
    """Return the error of softmax with cross-entropy, prediction less one-hot label."""
    return outputs.detach().softmax(1) - nn.functional.one_hot(label, outputs.shape[1])


@pytest.mark.parametrize("activation", ["logistic", "tanh", "relu"])
def test_the_recursion_equals_automatic_differentiation(activation: Squashing) -> None:
    layers = _layers([5, 7, 6, 4])
    inputs, label = torch.randn(9, 5, dtype=torch.float64), torch.arange(9) % 4
    outputs = activations_of_layers(layers, activation, inputs)[-1]
    loss = nn.functional.cross_entropy(outputs, label, reduction="sum")
    gradients = gradients_of_layers(layers, activation, inputs, _error(outputs, label))
    for layer, given in zip(layers, gradients, strict=True):
        weight, bias = torch.autograd.grad(loss, (layer.weight, layer.bias), retain_graph=True)
        torch.testing.assert_close(given.weight, weight)
        torch.testing.assert_close(given.bias, bias)


def test_errors_vanish_through_sigmoids_and_survive_rectifiers() -> None:
    inputs, error = torch.randn(32, 64, dtype=torch.float64), torch.ones(32, 64, dtype=torch.float64)
    layers = _layers([64] * 12, gain=2**0.5)
    sigmoid = growth_of_layers(gradients_of_layers(layers, "logistic", inputs, error))
    rectifier = growth_of_layers(gradients_of_layers(layers, "relu", inputs, error))
    assert 0.2 < sigmoid < 2**0.5 / 4
    assert 0.8 < rectifier < 1.2
