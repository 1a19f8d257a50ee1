"""The network of the chapter: a residual net over the planes with a policy and a value head.

Pre-activation residual blocks (He et al. 2016, arXiv 1603.05027) of 3x3 convolutions with global pooling (Wu 2019,
arXiv 1902.10565, section 3.3); two further heads say who will own each point and by how much the game will be won
(section 3.4 there). Departures: group normalisation instead of batch normalisation, so that an example's outputs depend
on nothing else in its batch; every block pools; the score is a number and no distribution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class NetworkSize:
    """How large the network is."""

    blocks: Annotated[int, Ge(0), Le(1_000)] = 4
    """Residual blocks."""
    channels: Annotated[int, Ge(1)] = 64
    """Feature maps of each; a multiple of 16 where there are more than 16."""

    def __post_init__(self) -> None:
        """Refuse maps that make no groups."""
        if self.channels % max(1, self.channels // 16):
            raise ValueError(f"channels should be a multiple of 16, not {self.channels}")


class Judgement(NamedTuple):
    """What the network thinks of B positions, from the side of the player to move."""

    logits: Tensor
    """[B, A], of illegal actions too."""
    value: Tensor
    """[B] in (-1, 1)."""
    ownership: Tensor | None
    """[B, H * W]: log-odds that a point will be the mover's; None without the heads."""
    score: Tensor | None
    """[B]: expected lead at the end, in board lengths; None without the heads."""


def pool_globally(features: Tensor) -> Tensor:
    """Return means and maxima of feature maps [B, C, H, W] over the board [B, 2C]."""
    return torch.cat([features.mean(dim=(2, 3)), features.amax(dim=(2, 3))], dim=1)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(1, channels // 16), channels)


class PooledBlock(nn.Module):
    """Adds to feature maps [B, C, H, W] what two convolutions make of them; the board as a whole biases the second."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([_norm(channels), _norm(channels)])
        self.convolutions = nn.ModuleList([nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2)])
        self.bias = nn.Linear(2 * channels, channels)

    def forward(self, features: Tensor) -> Tensor:
        """Return feature maps of the same shape."""
        inner = self.convolutions[0](self.norms[0](features).relu())
        inner = inner + self.bias(pool_globally(inner.relu()))[:, :, None, None]
        added: Tensor = self.convolutions[1](self.norms[1](inner).relu())
        return features + added


class PolicyValueNetwork(nn.Module):
    """Maps planes [B, C, H, W] to logits [B, A] and values [B] in (-1, 1) of the player to move."""

    def __init__(self, size: NetworkSize, shape: tuple[int, ...], actions: int, auxiliary: bool = False) -> None:
        """`shape`: (C, H, W); `auxiliary`: with the heads for ownership and score."""
        super().__init__()
        (planes, rows, columns), blocks, channels = shape, size.blocks, size.channels
        self.stem = nn.Conv2d(planes, channels, 3, padding=1, bias=False)
        self.blocks = nn.Sequential(*(PooledBlock(channels) for _ in range(blocks)))
        self.norm = _norm(channels)
        self.policy_map = nn.Conv2d(channels, 4, 1)
        self.policy = nn.Linear(4 * rows * columns + 2 * channels, actions)
        self.value_map = nn.Conv2d(channels, 4, 1)
        self.value = nn.Sequential(nn.Linear(4 * rows * columns + 2 * channels, 2 * channels), nn.ReLU(),
                                   nn.Linear(2 * channels, 1))  # fmt: skip
        self.ownership = nn.Conv2d(channels, 1, 1) if auxiliary else None
        self.score = nn.Linear(2 * channels, 1) if auxiliary else None

    def forward(self, planes: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits, of illegal actions too, and values: what a search asks for."""
        features = self.features(planes)
        return self._policy_and_value(features, pool_globally(features))

    def judge(self, planes: Tensor) -> Judgement:
        """Return what all heads say."""
        features = self.features(planes)
        pooled = pool_globally(features)
        ownership = None if self.ownership is None else self.ownership(features).flatten(1)
        score = None if self.score is None else self.score(pooled).squeeze(1)
        return Judgement(*self._policy_and_value(features, pooled), ownership, score)

    def features(self, planes: Tensor) -> Tensor:
        """Return the feature maps [B, channels, H, W] that the heads share."""
        features: Tensor = self.norm(self.blocks(self.stem(planes))).relu()
        return features

    def _policy_and_value(self, features: Tensor, pooled: Tensor) -> tuple[Tensor, Tensor]:
        policy = torch.cat([self.policy_map(features).relu().flatten(1), pooled], dim=1)
        value = torch.cat([self.value_map(features).relu().flatten(1), pooled], dim=1)
        logits: Tensor = self.policy(policy)
        return logits, torch.tanh(self.value(value)).squeeze(1)
