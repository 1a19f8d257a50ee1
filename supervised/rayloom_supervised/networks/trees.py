"""Networks from a binary tree to a number of outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn

from rayloom.contract import Component, Kinds, Shipped, TensorSpec, UserError, component
from rayloom_supervised.layers.activations import initialize_output
from rayloom_supervised.layers.padding import inside
from rayloom_supervised.layers.trees import RecursiveCell, TreeLayer, TreeLSTMCell

Size = Annotated[int, Ge(1)]


class TreeNetwork(nn.Module):
    """Base of networks over trees."""

    def forward(self, token: Tensor, children: Tensor, lengths: Tensor) -> Tensor:
        """Map tokens [B, N] and children [B, N, 2] of true lengths [B] to [B, outputs]."""
        raise NotImplementedError(f"{type(self).__name__} must implement forward()")


class RecursiveNetwork(TreeNetwork):
    """Vectors for tokens, a cell that composes them along the tree, and an affine map of the root's state."""

    def __init__(self, tokens: int, outputs: int, layer: TreeLayer, embedding_size: int) -> None:
        """Put the parts together."""
        super().__init__()
        self.embedding = nn.Embedding(tokens, embedding_size)
        self.layer = layer
        self.head = nn.Linear(layer.cell.size, outputs)
        initialize_output(self.head)

    def forward(self, token: Tensor, children: Tensor, lengths: Tensor) -> Tensor:
        """Return the outputs [B, outputs] at the roots."""
        outputs: Tensor = self.head(self.layer(self.embedding(token), children, lengths)[1])
        return outputs


class BagOfNodes(TreeNetwork):
    """A perceptron over the sum of all tokens' vectors, which does not know how they hang together: to compare with."""

    def __init__(self, tokens: int, outputs: int, embedding_size: int, size: int) -> None:
        """Build one hidden layer of `size` units."""
        super().__init__()
        self.embedding = nn.Embedding(tokens, embedding_size)
        self.head = nn.Sequential(nn.Linear(embedding_size, size), nn.ReLU(), nn.Linear(size, outputs))

    def forward(self, token: Tensor, children: Tensor, lengths: Tensor) -> Tensor:
        """Return the outputs [B, outputs]; children play no part."""
        real = inside(lengths, token.shape[1])[:, :, None]
        outputs: Tensor = self.head(torch.where(real, self.embedding(token), 0).sum(dim=1))
        return outputs


@dataclass(frozen=True, kw_only=True)
class RecursiveConfig:
    """States composed along the tree."""

    cell: Literal["recursive", "tree_lstm"] = "tree_lstm"
    """recursive: one layer with tanh (Socher et al. 2011); tree_lstm: with gates and memory (Tai et al. 2015)."""
    embedding_size: Size = 32
    """Numbers that stand for a token."""
    size: Size = 32
    """Units of a node's state."""


@component("tree network", RecursiveConfig)
def recursive(config: RecursiveConfig, spec: TensorSpec, outputs: int) -> TreeNetwork:
    """Return the recursive network."""
    cell = {"recursive": RecursiveCell, "tree_lstm": TreeLSTMCell}[config.cell]
    layer = TreeLayer(cell(config.embedding_size, config.size))
    return RecursiveNetwork(spec.categories, outputs, layer, config.embedding_size)


@dataclass(frozen=True, kw_only=True)
class BagConfig:
    """The sum of the tokens' vectors, without their structure."""

    embedding_size: Size = 32
    """Numbers that stand for a token."""
    size: Size = 64
    """Units of the hidden layer."""


@component("tree network", BagConfig)
def bag(config: BagConfig, spec: TensorSpec, outputs: int) -> TreeNetwork:
    """Return the network without structure."""
    return BagOfNodes(spec.categories, outputs, config.embedding_size, config.size)


TREE_NETWORKS = Kinds(
    "tree network",
    {function.__name__: Shipped(f"{__name__}:{function.__name__}") for function in (recursive, bag)},
    own="a function marked @component('tree network', Config) that returns a TreeNetwork",
    default="recursive",
)
"""Networks from binary trees to a number of outputs."""


def build_tree_network(network: Component, spec: TensorSpec, outputs: int) -> TreeNetwork:
    """Return the network that a config names, for tokens that `spec` describes."""
    built = network.load()(network.settings, spec, outputs)
    if not isinstance(built, TreeNetwork):
        raise UserError(f"algorithm.network: {network.name} must return a TreeNetwork, not {type(built).__name__}")
    return built
