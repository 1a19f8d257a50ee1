"""Activation functions by name, and the initial weights that suit them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import nn

Activation = Literal["relu", "tanh", "logistic", "softplus"]

_ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "logistic": nn.Sigmoid,
    "softplus": nn.Softplus,
}


def activation_module(activation: Activation) -> nn.Module:
    """Return a new module that computes the activation."""
    return _ACTIVATIONS[activation]()


def initialize_hidden(layer: nn.Linear | nn.Conv2d, activation: Activation) -> None:
    """Draw the weights of a hidden layer as its activation needs them; biases 0."""
    if activation in ("relu", "softplus"):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    else:
        nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def initialize_output(layer: nn.Linear) -> None:
    """Draw the weights of an output layer; biases 0."""
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
