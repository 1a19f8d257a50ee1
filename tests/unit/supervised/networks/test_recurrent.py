"""Recurrent networks: every step against NumPy, sizes, first weights, gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rayloom_supervised.networks.recurrent import Cell, RecurrentNetwork

GATES: dict[Cell, int] = {"rnn": 1, "lstm": 4, "gru": 3}
Weights = dict[str, np.ndarray]


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def last_state(cell: Cell, weights: Weights, layers: int, sequence: np.ndarray) -> np.ndarray:
    """Return the top layer's state after the last step of one sequence [T, F], by the papers' equations."""
    size = weights["weight_hh_l0"].shape[1]
    for layer in range(layers):
        input_weight, state_weight = weights[f"weight_ih_l{layer}"], weights[f"weight_hh_l{layer}"]
        state, memory, states = np.zeros(size), np.zeros(size), []
        for row in sequence:
            new = np.split(input_weight @ row + weights[f"bias_ih_l{layer}"], GATES[cell])
            old = np.split(state_weight @ state + weights[f"bias_hh_l{layer}"], GATES[cell])
            if cell == "rnn":
                state = np.tanh(new[0] + old[0])
            elif cell == "lstm":
                enter, forget, leave = (sigmoid(new[gate] + old[gate]) for gate in (0, 1, 3))
                memory = forget * memory + enter * np.tanh(new[2] + old[2])
                state = leave * np.tanh(memory)
            else:
                reset, keep = (sigmoid(new[gate] + old[gate]) for gate in (0, 1))
                state = (1 - keep) * np.tanh(new[2] + reset * old[2]) + keep * state
            states.append(state)
        sequence = np.stack(states)
    return sequence[-1]


@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize("layers", [1, 2])
def test_the_logits_follow_the_equations(cell: Cell, layers: int) -> None:
    network = RecurrentNetwork((2, 5, 3), 4, cell, cell_size=7, cell_layers=layers, hidden_sizes=(6,))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    weights = {name: parameter.detach().double().numpy() for name, parameter in network.cell.named_parameters()}
    first, first_bias, last, last_bias = (p.detach().double().numpy() for p in network.classifier.parameters())
    images = torch.randn(3, 2, 5, 3)
    logits = network(images).detach().numpy()
    for image, found in zip(images.double().numpy(), logits, strict=True):
        # A step is one row of the image: the first channel's three pixels, then the second's.
        rows = np.stack([np.concatenate([image[0, y], image[1, y]]) for y in range(5)])
        state = last_state(cell, weights, layers, rows)
        hidden = np.maximum(first @ state + first_bias, 0)
        np.testing.assert_allclose(found, last @ hidden + last_bias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize(("shape", "layers"), [((1, 8, 8), 1), ((3, 1, 1), 1), ((1, 13, 5), 3), ((2, 1, 9), 2)])
def test_sizes(cell: Cell, shape: tuple[int, int, int], layers: int) -> None:
    network = RecurrentNetwork(shape, 10, cell, cell_size=6, cell_layers=layers)
    assert network(torch.zeros(2, *shape)).shape == (2, 10)
    features = shape[0] * shape[2]
    expected = sum(GATES[cell] * 6 * ((6 if layer else features) + 6 + 2) for layer in range(layers)) + 7 * 10
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


@pytest.mark.parametrize("cell", GATES)
def test_first_weights(cell: Cell) -> None:
    torch.manual_seed(1)
    network = RecurrentNetwork((1, 4, 160), 10, cell, cell_size=96, cell_layers=2)
    for layer, features in ((0, 160), (1, 96)):
        into, recurrent, *biases = (parameter.detach() for parameter in network.cell.all_weights[layer])
        gates = into.split(96)
        assert len(gates) == GATES[cell]
        for gate in gates:
            # Glorot's uniform distribution for a matrix of 96 rows, whatever the number of gates.
            assert float(gate.std()) == pytest.approx(math.sqrt(2 / (features + 96)), rel=0.03)
            assert float(gate.abs().max()) == pytest.approx(math.sqrt(6 / (features + 96)), rel=0.01)
        for gate in recurrent.split(96):
            torch.testing.assert_close(gate @ gate.T, torch.eye(96), atol=1e-5, rtol=0)
        total = biases[0] + biases[1]
        expected = torch.zeros(GATES[cell] * 96)
        if cell == "lstm":
            expected[96:192] = 1
        assert torch.equal(total, expected)


def test_dropout_and_activation_belong_to_the_classifier() -> None:
    network = RecurrentNetwork((1, 4, 4), 3, "gru", 8, 2, hidden_sizes=(500,), activation="tanh", dropout=0.5)
    assert network.cell.dropout == 0
    layers = [type(layer) for layer in network.classifier.layers]
    assert layers == [torch.nn.Linear, torch.nn.Tanh, torch.nn.Dropout, torch.nn.Linear]


@pytest.mark.parametrize("cell", GATES)
def test_the_gradient_of_substituted_weights_is_theirs(cell: Cell) -> None:
    """Compiled phases and populations call the network with other weights than its own."""
    network, other = (RecurrentNetwork((1, 6, 5), 4, cell, 8, 2) for _ in range(2))
    images, labels = torch.randn(7, 1, 6, 5), torch.arange(7) % 4

    def loss(values: dict[str, torch.Tensor]) -> torch.Tensor:
        return F.cross_entropy(torch.func.functional_call(network, values, (images,)), labels)

    gradients = torch.func.grad(loss)({name: p.detach() for name, p in other.named_parameters()})
    F.cross_entropy(other(images), labels).backward()
    for name, parameter in other.named_parameters():
        assert parameter.grad is not None and parameter.grad.any()
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-6, rtol=1e-5)
