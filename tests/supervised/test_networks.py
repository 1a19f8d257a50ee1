"""Networks: shapes, sizes, functions against torch.nn.functional, initial weights."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from rayloom_supervised.networks import MLP, Activation, LeNet5, Linear


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_lenet5_has_the_papers_maps_at_28x28() -> None:
    network = LeNet5((1, 28, 28), 10)
    maps = network.features(torch.zeros(2, 1, 28, 28))
    assert maps.shape == (2, 16, 5, 5)
    # 6 * (25 + 1), 16 * (6 * 25 + 1), 120 * (400 + 1), 84 * (120 + 1), 10 * (84 + 1)
    assert count(network) == 156 + 2_416 + 48_120 + 10_164 + 850
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 4, 5), (2, 15, 40), (1, 16, 16)])
def test_lenet5_takes_other_sizes(shape: tuple[int, int, int]) -> None:
    assert LeNet5(shape, 7, channels=(3, 5), hidden_sizes=(11,))(torch.zeros(2, *shape)).shape == (2, 7)


def test_lenet5_equals_its_formula() -> None:
    network = LeNet5((1, 28, 28), 10, activation="tanh")
    images = torch.randn(3, 1, 28, 28)
    weights = [parameter.detach() for parameter in network.parameters()]
    maps = F.max_pool2d(torch.tanh(F.conv2d(images, weights[0], weights[1], padding=2)), 2)
    maps = F.max_pool2d(torch.tanh(F.conv2d(maps, weights[2], weights[3])), 2).flatten(1)
    hidden = torch.tanh(maps @ weights[4].T + weights[5])
    hidden = torch.tanh(hidden @ weights[6].T + weights[7])
    assert torch.allclose(network(images), hidden @ weights[8].T + weights[9], atol=1e-5)


@pytest.mark.parametrize(
    ("activation", "function"),
    [("relu", torch.relu), ("tanh", torch.tanh), ("logistic", torch.sigmoid), ("softplus", F.softplus)],
)
def test_mlp_equals_its_formula(activation: Activation, function: object) -> None:
    network = MLP((6, 5, 4, 3), activation)
    inputs = torch.randn(8, 1, 2, 3)
    first, first_bias, second, second_bias, last, last_bias = (p.detach() for p in network.parameters())
    hidden = function(inputs.flatten(1) @ first.T + first_bias)  # type: ignore[operator]
    hidden = function(hidden @ second.T + second_bias)  # type: ignore[operator]
    assert torch.allclose(network(inputs), hidden @ last.T + last_bias, atol=1e-6)


def test_linear_starts_at_zero() -> None:
    network = Linear(12, 4)
    assert count(network) == 52
    assert torch.equal(network(torch.randn(3, 3, 2, 2)), torch.zeros(3, 4))


@pytest.mark.parametrize(
    ("activation", "deviation"), [("relu", math.sqrt(2 / 400)), ("tanh", math.sqrt(2 / (400 + 300)))]
)
def test_hidden_weights_have_the_documented_spread(activation: Activation, deviation: float) -> None:
    hidden, output = MLP((400, 300, 200), activation).layers[0], MLP((400, 300, 200), activation).layers[2]
    assert float(hidden.weight.detach().std()) == pytest.approx(deviation, rel=0.02)
    assert float(output.weight.detach().std()) == pytest.approx(math.sqrt(2 / 500), rel=0.02)
    assert not hidden.bias.any()
    assert not output.bias.any()
    convolution = LeNet5((8, 28, 28), 10, channels=(64, 16), activation=activation).features[0]
    # A convolution's weight sees 8 * 25 inputs and 64 * 25 outputs.
    expected = math.sqrt(2 / 200) if activation == "relu" else math.sqrt(2 / (200 + 1600))
    assert float(convolution.weight.detach().std()) == pytest.approx(expected, rel=0.02)


def test_dropout_follows_every_hidden_layer_and_draws_from_the_global_generator() -> None:
    network = MLP((10, 2000, 2000, 5), "relu", dropout=0.25)
    assert [layer.p for layer in network.layers if isinstance(layer, torch.nn.Dropout)] == [0.25, 0.25]
    inputs = torch.rand(4, 10)
    torch.manual_seed(1)
    one = network(inputs)
    other = network(inputs)
    torch.manual_seed(1)
    assert torch.equal(network(inputs), one)
    assert not torch.equal(one, other)
    network.eval()
    assert torch.equal(network(inputs), network(inputs))
    assert not any(isinstance(layer, torch.nn.Dropout) for layer in MLP((10, 4, 5), "relu").layers)
