"""Graphs in padded batches, and layers that send messages along their edges.

Nodes are [B, N, F], edges int64 [B, E, 2], the numbers of their two ends, each undirected edge once. Sums over a node's
neighbours are scatter-adds over a list of edges, so that time and memory grow with the edges and not with N squared.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from rayloom_supervised.layers.padding import inside


class Links(NamedTuple):
    """The directed edges of a batch of graphs as one graph of B * N nodes, M = 2 B E of them."""

    source: Tensor
    """Node that sends, [M]."""
    target: Tensor
    """Node that receives, [M]."""
    weight: Tensor
    """1, and 0 for padding, [M]."""


def make_links(edges: Tensor, lengths: Tensor, nodes: Tensor) -> Links:
    """Return both directions of edges [B, E, 2] with true lengths [B], for nodes [B, N, F] whose type weights have."""
    real = inside(lengths, edges.shape[1])
    first = torch.arange(len(edges), device=edges.device) * nodes.shape[1]
    numbers = edges.masked_fill(~real[:, :, None], 0) + first[:, None, None]
    ends, weight = numbers.flatten(0, 1), real.flatten().to(nodes.dtype)
    return Links(torch.cat((ends[:, 0], ends[:, 1])), torch.cat((ends[:, 1], ends[:, 0])), weight.repeat(2))


def sum_received(messages: Tensor, links: Links, nodes: int) -> Tensor:
    """Return for each of `nodes` the sum [nodes, F] of the messages [M, F] that it receives."""
    return messages.new_zeros(nodes, messages.shape[1]).index_add(0, links.target, messages * links.weight[:, None])


class GraphConvolution(nn.Module):
    """D^-1/2 (A + I) D^-1/2 X W + b, D the degrees of A + I (Kipf and Welling 2017, equation 2)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """Draw W by Glorot and Bengio (2010), as the paper; b is 0."""
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=False)
        nn.init.xavier_uniform_(self.linear.weight)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, states: Tensor, links: Links) -> Tensor:
        """Map nodes [R, inputs] to [R, outputs]."""
        mapped = self.linear(states)
        degree = sum_received(links.weight[:, None], links, len(states)) + 1
        scaled = mapped * degree.rsqrt()
        found: Tensor = (sum_received(scaled[links.source], links, len(states)) + scaled) * degree.rsqrt() + self.bias
        return found


class GatedMessages(nn.Module):
    """m(v) = sum over neighbours u of relu(W [h(v), h(u)] + b), h(v) = GRU(h(v), m(v)) (Gilmer et al. 2017, section 2).

    The update is that of gated graph networks (Li et al. 2016); messages see both ends, as Battaglia et al. (2018) have
    it.
    """

    def __init__(self, size: int) -> None:
        """Build for states of `size` features, which messages have too."""
        super().__init__()
        # One matrix for each end: applied to nodes, of which there are fewer than edges.
        self.receiver = nn.Linear(size, size)
        self.sender = nn.Linear(size, size, bias=False)
        self.update = nn.GRUCell(size, size)

    def forward(self, states: Tensor, links: Links) -> Tensor:
        """Map the states of nodes [R, size] to those after one exchange."""
        messages = torch.relu(self.receiver(states)[links.target] + self.sender(states)[links.source])
        after: Tensor = self.update(sum_received(messages, links, len(states)), states)
        return after
