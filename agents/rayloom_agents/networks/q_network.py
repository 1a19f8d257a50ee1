"""Networks from observations to action values, or to their distributions: the parts of Rainbow, each a switch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rayloom.contract import Spec
from rayloom_agents.networks.encoder import Encoder, ImageNetwork
from rayloom_agents.networks.feed_forward import Activation, FeedForward
from rayloom_agents.networks.noisy import Draw, NoisyLinear


class Layers(nn.Module):
    """Linear layers, noisy or not, with an activation between them."""

    def __init__(self, sizes: Sequence[int], activation: Activation, noisy: bool) -> None:
        super().__init__()
        make = NoisyLinear if noisy else nn.Linear
        self.layers = nn.ModuleList(make(inputs, outputs) for inputs, outputs in itertools.pairwise(sizes))
        self._activation = torch.tanh if activation == "tanh" else torch.relu

    def forward(self, rows: Tensor, draw: Draw | None = None) -> Tensor:
        """Map [B, sizes[0]] to [B, sizes[-1]]."""
        for index, layer in enumerate(self.layers):
            rows = layer(rows, draw) if isinstance(layer, NoisyLinear) else layer(rows)
            if index != len(self.layers) - 1:
                rows = self._activation(rows)
        return rows


class QNetwork(nn.Module):
    """Outputs for each action [B, A], or with `atoms` [B, A, K].

    Dueling (Wang et al. 2016, equation 9): the value of the state plus what each action is better than their mean.
    """

    def __init__(
        self,
        spec: Spec,
        num_actions: int,
        hidden_sizes: Sequence[int],
        activation: Activation,
        *,
        dueling: bool = False,
        noisy: bool = False,
        atoms: int = 0,
        image_network: ImageNetwork = "nature",
    ) -> None:
        super().__init__()
        self.encoder = Encoder(spec, image_network)
        self._actions, self._atoms, self._width = num_actions, atoms, max(1, atoms)
        sizes = (self.encoder.size, *hidden_sizes)
        self.plain: FeedForward | None = None
        self.advantage: Layers | None = None
        self.state_value: Layers | None = None
        if not dueling and not noisy:
            self.plain = FeedForward((*sizes, num_actions * self._width), activation)
        else:
            self.advantage = Layers((*sizes, num_actions * self._width), activation, noisy)
        if dueling:
            self.state_value = Layers((*sizes, self._width), activation, noisy)

    @property
    def is_plain_vector_network(self) -> bool:
        """Whether it is nothing but linear layers over one vector."""
        return self.plain is not None and self.encoder.bare and not self._atoms

    def forward(self, observation: Any, draw: Draw | None = None) -> Tensor:
        """Return the outputs of observations [B, ...]; `draw` gives noisy layers their noise."""
        features = observation if self.encoder.bare else self.encoder(observation)
        if self.plain is not None:
            found: Tensor = self.plain(features)
            return found.view(-1, self._actions, self._atoms) if self._atoms else found
        assert self.advantage is not None
        advantage = self.advantage(features, draw).view(-1, self._actions, self._width)
        if self.state_value is not None:
            value: Tensor = self.state_value(features, draw).unsqueeze(1)
            advantage = value + advantage - advantage.mean(1, keepdim=True)
        outputs: Tensor = advantage if self._atoms else advantage.squeeze(2)
        return outputs
