"""Networks: shapes, sizes, functions against torch.nn.functional, initial weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rayloom_supervised.layers.activations import Activation
from rayloom_supervised.networks.convolutional import ConvolutionalNetwork, LeNet5
from rayloom_supervised.networks.perceptrons import MLP, Linear


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


def test_lenet5_keeps_its_first_weights() -> None:
    """Golden numbers: a run of LeNet-5 repeats from version to version."""
    torch.manual_seed(0)
    totals = [float(weight.detach().abs().sum()) for weight in LeNet5((1, 8, 8), 10).parameters() if weight.ndim > 1]
    assert totals == pytest.approx([32.7552, 133.902, 1087.8809, 1042.3301, 107.6752], rel=1e-4)


def numpy_block(maps: np.ndarray, weight: np.ndarray, bias: np.ndarray, pool: bool) -> np.ndarray:
    """Convolve one image [C, H, W] by the definition, rectify, and pool."""
    _, height, width = maps.shape
    padded = np.pad(maps, ((0, 0), (1, 1), (1, 1)))
    out = np.zeros((len(weight), height, width))
    for y in range(height):
        for x in range(width):
            out[:, y, x] = (weight * padded[:, y : y + 3, x : x + 3]).sum((1, 2, 3)) + bias
    out = np.maximum(out, 0)
    if not pool:
        return out
    kept = out[:, : height // 2 * 2, : width // 2 * 2]
    return kept.reshape(len(weight), height // 2, 2, width // 2, 2).max((2, 4))


def test_cnn_equals_its_formula() -> None:
    network = ConvolutionalNetwork((2, 7, 5), 3, channels=(4, 5, 6), hidden_sizes=(8,))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    images = torch.randn(3, 2, 7, 5)
    weights = [parameter.detach().double().numpy() for parameter in network.parameters()]
    logits = network(images).detach().numpy()
    for image, found in zip(images.double().numpy(), logits, strict=True):
        maps = numpy_block(image, weights[0], weights[1], pool=True)  # 7x5 to 3x2
        maps = numpy_block(maps, weights[2], weights[3], pool=True)  # to 1x1, so that the third does not pool
        maps = numpy_block(maps, weights[4], weights[5], pool=False)
        hidden = np.maximum(weights[6] @ maps.ravel() + weights[7], 0)
        np.testing.assert_allclose(found, weights[8] @ hidden + weights[9], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "channels", "maps"),
    [
        ((1, 28, 28), (32, 64), (64, 7, 7)),
        ((1, 28, 28), (3, 4, 5, 6, 7), (7, 1, 1)),
        ((3, 9, 13), (4,), (4, 4, 6)),
        ((1, 2, 9), (4, 5), (5, 1, 4)),
        ((1, 9, 1), (4, 5), (5, 9, 1)),
        ((1, 1, 1), (4, 5), (5, 1, 1)),
    ],
)
def test_cnn_takes_any_size_and_depth(shape: tuple[int, ...], channels: tuple[int, ...], maps: tuple[int, ...]) -> None:
    network = ConvolutionalNetwork(shape, 10, channels, hidden_sizes=(11,))  # type: ignore[arg-type]
    assert network.features(torch.zeros(2, *shape)).shape == (2, *maps)
    assert network(torch.zeros(2, *shape)).shape == (2, 10)
    inputs = (shape[0], *channels[:-1])
    convolutions = sum((9 * before + 1) * after for before, after in zip(inputs, channels, strict=True))
    assert count(network) == convolutions + (math.prod(maps) + 1) * 11 + (11 + 1) * 10


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_cnn_weights_have_the_documented_spread(activation: Activation) -> None:
    network = ConvolutionalNetwork((32, 8, 8), 10, (64, 96), hidden_sizes=(256,), activation=activation, dropout=0.3)
    for layer, inputs, outputs in ((network.features[0], 32, 64), (network.features[3], 64, 96)):
        variance = 2 / (9 * inputs) if activation == "relu" else 2 / (9 * (inputs + outputs))
        assert float(layer.weight.detach().std()) == pytest.approx(math.sqrt(variance), rel=0.02)
        assert not layer.bias.any()
    expected = type(network.features[1])
    assert expected is {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}[activation]
    assert [layer.p for layer in network.modules() if isinstance(layer, torch.nn.Dropout)] == [0.3]
