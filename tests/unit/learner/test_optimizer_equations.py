"""The optimisers that a config names against the equations of Qiu's text of 2015 (64 to 69), written out in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from rayloom.config.optimizers import OPTIMIZERS

RATE, DECAY, EPSILON = 0.1, 0.9, 1e-6
Steps = Callable[[Iterator[np.ndarray]], Iterator[np.ndarray]]


def momentum(gradients: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Equation 64: the rate stands inside the velocity, which at a constant rate is torch's."""
    velocity = np.zeros(3)
    for gradient in gradients:
        velocity = DECAY * velocity - RATE * gradient
        yield velocity


def nesterov(gradients: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """The velocity is applied once more ahead of the gradient's own step."""
    velocity = np.zeros(3)
    for gradient in gradients:
        velocity = DECAY * velocity - RATE * gradient
        yield DECAY * velocity - RATE * gradient


def adagrad(gradients: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Equation 65."""
    total = np.zeros(3)
    for gradient in gradients:
        total = total + gradient**2
        yield -RATE * gradient / np.sqrt(total)


def adadelta(gradients: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Equations 66 to 69, which have no rate."""
    squares, steps = np.zeros(3), np.zeros(3)
    for gradient in gradients:
        squares = DECAY * squares + (1 - DECAY) * gradient**2
        step = -np.sqrt(steps + EPSILON) / np.sqrt(squares + EPSILON) * gradient
        steps = DECAY * steps + (1 - DECAY) * step**2
        yield step


@pytest.mark.parametrize(
    ("kind", "settings", "equations"),
    [
        ("sgd", {"learning_rate": RATE, "momentum": DECAY}, momentum),
        ("sgd", {"learning_rate": RATE, "momentum": DECAY, "nesterov": True}, nesterov),
        ("adagrad", {"learning_rate": RATE, "eps": 1e-10}, adagrad),
        ("adadelta", {"learning_rate": 1.0, "rho": DECAY, "eps": EPSILON}, adadelta),
    ],
)
def test_optimizers_are_the_texts(kind: str, settings: dict[str, float], equations: Steps) -> None:
    named = OPTIMIZERS.component(kind, **settings)
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64))
    optimizer = named.load()(named.settings, [weight])
    gradients = [np.random.default_rng(index).normal(size=3) for index in range(6)]
    expected = weight.detach().numpy().copy()
    for gradient, step in zip(gradients, equations(iter(gradients)), strict=True):
        weight.grad = torch.from_numpy(gradient)
        optimizer.step()
        expected = expected + step
        np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=1e-7)
