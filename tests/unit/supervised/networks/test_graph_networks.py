"""Graph networks against dense matrices; the order of nodes, ends and edges and the padding do not matter."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch
from torch import Tensor

from rayloom.contract import Component, TensorSpec, UserError
from rayloom_supervised.networks.graphs import (
    GRAPH_NETWORKS,
    ConvolutionalGraphNetwork,
    GraphNetwork,
    MessagePassingNetwork,
    build_graph_network,
)

SIZES, F, H = (5, 3, 7), 4, 6
EDGES = ([(0, 1), (1, 2), (3, 2), (0, 4), (2, 0)], [], [(6, 0), (0, 5), (1, 6), (2, 1)])


def made(kind: str, depth: int = 2) -> GraphNetwork:
    torch.manual_seed(0)
    network = {"gcn": ConvolutionalGraphNetwork, "message_passing": MessagePassingNetwork}[kind](F, H, depth).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return network


def batch(filling: float = 0.0, nodes: int = 7, edges: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    chance = torch.Generator().manual_seed(1)
    features = torch.full((3, nodes, F), filling, dtype=torch.float64)
    # What fills up lists of edges would be an illegal number of a node.
    ends = torch.full((3, edges, 2), 0 if filling == 0 else 10**6)
    for row, size in enumerate(SIZES):
        features[row, :size] = torch.randn(size, F, generator=chance, dtype=torch.float64)
        if EDGES[row]:
            ends[row, : len(EDGES[row])] = torch.tensor(EDGES[row])
    return features, torch.tensor(SIZES), ends, torch.tensor([len(row) for row in EDGES])


def adjacency(row: int) -> np.ndarray:
    matrix = np.zeros((SIZES[row],) * 2)
    for one, other in EDGES[row]:
        matrix[one, other] = matrix[other, one] = 1
    return matrix


def test_graph_convolutions_are_products_of_dense_matrices() -> None:
    network, inputs = made("gcn"), batch()
    p = {name: value.detach().numpy() for name, value in network.named_parameters()}
    found = network(*inputs)
    for row, size in enumerate(SIZES):
        with_self = adjacency(row) + np.eye(size)
        root = np.diag(with_self.sum(axis=1) ** -0.5)
        states = [np.maximum(inputs[0][row, :size].numpy() @ p["first.weight"].T + p["first.bias"], 0)]
        for layer in range(2):
            mapped = root @ with_self @ root @ states[-1] @ p[f"layers.{layer}.linear.weight"].T
            states.append(np.maximum(mapped + p[f"layers.{layer}.bias"], 0))
        np.testing.assert_allclose(found[row, :size].detach(), np.concatenate(states, axis=1), rtol=1e-12, atol=1e-14)
        assert not found[row, size:].any()


def test_messages_are_summed_over_the_neighbours() -> None:
    network, inputs = made("message_passing"), batch()
    p = {name: value.detach().numpy() for name, value in network.named_parameters()}
    found = network(*inputs)
    s = lambda values: 1 / (1 + np.exp(-values))  # noqa: E731
    for row, size in enumerate(SIZES):
        states = np.tanh(inputs[0][row, :size].numpy() @ p["first.weight"].T + p["first.bias"])
        for _ in range(2):
            after = []
            for v in range(size):
                told = np.zeros(H)
                for u in np.flatnonzero(adjacency(row)[v]):
                    told += np.maximum(
                        p["exchange.receiver.weight"] @ states[v]
                        + p["exchange.receiver.bias"]
                        + p["exchange.sender.weight"] @ states[u],
                        0,
                    )
                (ri, zi, ni), (rh, zh, nh) = (
                    np.split(p[f"exchange.update.weight_{way}"] @ value + p[f"exchange.update.bias_{way}"], 3)
                    for way, value in (("ih", told), ("hh", states[v]))
                )
                reset, keep = s(ri + rh), s(zi + zh)
                after.append((1 - keep) * np.tanh(ni + reset * nh) + keep * states[v])
            states = np.stack(after)
        np.testing.assert_allclose(found[row, :size].detach(), states, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", GRAPH_NETWORKS.shipped)
def test_nodes_may_come_in_any_order(kind: str) -> None:
    network, (nodes, sizes, edges, lengths) = made(kind), batch()
    found = network(nodes[2:], sizes[2:], edges[2:, :4], lengths[2:])
    order = torch.randperm(7, generator=torch.Generator().manual_seed(4))  # node order[i] becomes node i
    renamed = order.argsort()[edges[2:, :4]][:, torch.tensor([2, 0, 3, 1])].flip(2)
    again = network(nodes[2:, order], sizes[2:], renamed, lengths[2:])
    torch.testing.assert_close(again, found[:, order], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", GRAPH_NETWORKS.shipped)
def test_padding_changes_no_value_and_no_gradient(kind: str) -> None:
    network, found = made(kind), []
    for filling, nodes, edges in ((0.0, 7, 5), (float("nan"), 9, 8)):
        inputs = batch(filling, nodes, edges)
        inputs[0].requires_grad_()
        states = network(*inputs)
        gradients = torch.autograd.grad((states**2).sum(), [inputs[0], *network.parameters()])
        assert not gradients[0][1, 3:].any()
        found.append((states[:, :7].detach(), gradients[0][:, :7], *gradients[1:]))
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("kind", GRAPH_NETWORKS.shipped)
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_a_network_sees_as_far_as_it_is_deep(kind: str, depth: int) -> None:
    graph = nx.path_graph(6)
    edges = torch.tensor([list(graph.edges)])
    nodes = torch.randn(1, 6, F, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    changed = nodes.abs()
    changed[0, 0] += 1
    network = made(kind, depth)
    for parameter in network.parameters():
        parameter.data.abs_().mul_(0.2)  # no unit is silent or saturated
    before, after = (
        network(given, torch.tensor([6]), edges, torch.tensor([5])) for given in (nodes.abs(), changed.abs())
    )
    seen = (before != after).any(dim=2)[0].tolist()
    assert seen == [steps <= depth for steps in nx.single_source_shortest_path_length(graph, 0).values()]


def test_a_foreign_network_is_refused() -> None:
    class Foreign(Component):
        def load(self):  # type: ignore[no-untyped-def]
            return lambda settings, spec: torch.nn.Linear(1, 1)

    spec = TensorSpec(shape=(3, F), dtype=torch.float32, ragged=True)
    component = GRAPH_NETWORKS.component()
    object.__setattr__(component, "load", Foreign.load.__get__(component))
    with pytest.raises(UserError, match="must return a GraphNetwork, not Linear"):
        build_graph_network(component, spec)
