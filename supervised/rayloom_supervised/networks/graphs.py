"""Networks over graphs: from the features of nodes and their edges to a state of each node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from rayloom.contract import Component, Kinds, Shipped, TensorSpec, UserError, component
from rayloom_supervised.layers.message_passing import GatedMessages, GraphConvolution, Links, make_links
from rayloom_supervised.layers.padding import inside


class GraphNetwork(nn.Module):
    """Base of networks over graphs; whatever the order of the nodes is, each gets the same state."""

    outputs: int
    """Features of a node's state."""

    def forward(self, nodes: Tensor, lengths: Tensor, edges: Tensor, edge_lengths: Tensor) -> Tensor:
        """Map nodes [B, N, F] and edges [B, E, 2] of true lengths [B] to states [B, N, outputs], 0 for padding."""
        real = inside(lengths, nodes.shape[1])[:, :, None]
        nodes = nodes.masked_fill(~real, 0)
        links = make_links(edges, edge_lengths, nodes)
        states: Tensor = self.pass_messages(nodes.flatten(0, 1), links).view(*nodes.shape[:2], -1)
        return states.masked_fill(~real, 0)

    def pass_messages(self, nodes: Tensor, links: Links) -> Tensor:
        """Return the states [R, outputs] of the nodes [R, F] of one graph."""
        raise NotImplementedError(f"{type(self).__name__} must implement pass_messages()")


class ConvolutionalGraphNetwork(GraphNetwork):
    """An affine map of each node, then graph convolutions with relu; the states of all depths are kept side by side.

    Departure from Kipf and Welling: the first map sees no neighbour, and depths are joined (Xu et al. 2018, jumping
    knowledge), so that a node's own features survive many layers.
    """

    def __init__(self, inputs: int, size: int, layers: int) -> None:
        """Build `layers` convolutions of `size` features; with 0 of them edges play no part."""
        super().__init__()
        self.first = nn.Linear(inputs, size)
        self.layers = nn.ModuleList(GraphConvolution(size, size) for _ in range(layers))
        self.outputs = size * (layers + 1)

    def pass_messages(self, nodes: Tensor, links: Links) -> Tensor:
        """Return the states of all depths [R, outputs]."""
        states = [torch.relu(self.first(nodes))]
        for layer in self.layers:
            states.append(torch.relu(layer(states[-1], links)))
        return torch.cat(states, dim=1)


class MessagePassingNetwork(GraphNetwork):
    """States that neighbours tell each other, several times by the same weights (Gilmer et al. 2017)."""

    def __init__(self, inputs: int, size: int, steps: int) -> None:
        """Build for `steps` exchanges between states of `size` features."""
        super().__init__()
        self.first = nn.Linear(inputs, size)
        self.exchange = GatedMessages(size)
        self.steps = steps
        self.outputs = size

    def pass_messages(self, nodes: Tensor, links: Links) -> Tensor:
        """Return the states after the last exchange [R, outputs]."""
        states = torch.tanh(self.first(nodes))
        for _ in range(self.steps):
            states = self.exchange(states, links)
        return states


@dataclass(frozen=True, kw_only=True)
class GCNConfig:
    """Graph convolutions (Kipf and Welling 2017)."""

    size: Annotated[int, Ge(1)] = 32
    """Features of a layer."""
    layers: Annotated[int, Ge(0), Le(1_000)] = 3
    """Convolutions, each of which sees one edge further; 0: nodes are judged without their neighbours."""


@component("graph network", GCNConfig)
def gcn(config: GCNConfig, spec: TensorSpec) -> GraphNetwork:
    """Return the convolutional network."""
    return ConvolutionalGraphNetwork(spec.shape[-1], config.size, config.layers)


@dataclass(frozen=True, kw_only=True)
class MessagePassingConfig:
    """Messages between neighbours and gated states (Gilmer et al. 2017)."""

    size: Annotated[int, Ge(1)] = 32
    """Features of a state and of a message."""
    steps: Annotated[int, Ge(0), Le(1_000)] = 4
    """Exchanges, each of which sees one edge further; 0: nodes are judged without their neighbours."""


@component("graph network", MessagePassingConfig)
def message_passing(config: MessagePassingConfig, spec: TensorSpec) -> GraphNetwork:
    """Return the message passing network."""
    return MessagePassingNetwork(spec.shape[-1], config.size, config.steps)


GRAPH_NETWORKS = Kinds(
    "graph network",
    {function.__name__: Shipped(f"{__name__}:{function.__name__}") for function in (gcn, message_passing)},
    own="a function marked @component('graph network', Config) that returns a GraphNetwork",
    default="gcn",
)
"""Networks from graphs to the states of their nodes."""


def build_graph_network(network: Component, spec: TensorSpec) -> GraphNetwork:
    """Return the network that a config names, for nodes that `spec` describes."""
    built = network.load()(network.settings, spec)
    if not isinstance(built, GraphNetwork):
        raise UserError(f"algorithm.network: {network.name} must return a GraphNetwork, not {type(built).__name__}")
    return built
