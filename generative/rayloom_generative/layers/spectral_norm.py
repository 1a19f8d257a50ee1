"""Spectral normalisation: Miyato et al. (2018), "Spectral normalization for generative adversarial networks"."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

_FIRST_STEPS = 20  # of the power iteration, from a random start


class SpectralNorm(nn.Module):
    """Divides a weight [O, ...], as a matrix [O, I], by an estimate of its largest singular value.

    Departure from the paper: a power iteration follows each step of the optimiser (`iterate`) and not each forward
    pass, so that a loss stays a function of its batch and of the module's state. The vectors are buffers.
    """

    left: Tensor
    right: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        matrix = weight.detach().flatten(1)
        self.register_buffer("left", F.normalize(torch.randn(matrix.shape[0]), dim=0).to(matrix))
        self.register_buffer("right", F.normalize(torch.randn(matrix.shape[1]), dim=0).to(matrix))
        for _ in range(_FIRST_STEPS):
            self.iterate(weight)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight with a spectral norm of about 1; its gradient takes the vectors for constants."""
        return weight / self.largest(weight)

    def largest(self, weight: Tensor) -> Tensor:
        """Return the estimate of the largest singular value."""
        # Copies: a later iteration changes the buffers, and a graph may still need them as they are now.
        return self.left.clone() @ weight.flatten(1) @ self.right.clone()

    @torch.no_grad()
    def iterate(self, weight: Tensor) -> None:
        """Take one step of the power iteration towards the first singular vectors."""
        matrix = weight.detach().flatten(1)
        self.right.copy_(F.normalize(matrix.T @ self.left, dim=0))
        self.left.copy_(F.normalize(matrix @ self.right, dim=0))


def add_spectral_norm(network: nn.Module) -> None:
    """Normalise the weights of all linear and convolutional layers of a network."""
    for layer in list(network.modules()):
        if isinstance(layer, nn.Linear | nn.Conv2d):
            parametrize.register_parametrization(layer, "weight", SpectralNorm(layer.weight))


def iterate_spectral_norms(network: nn.Module) -> None:
    """Let every normalised weight of a network take one step of its power iteration."""
    for layer in network.modules():
        if not parametrize.is_parametrized(layer, "weight"):
            continue
        weight: Any = layer.parametrizations["weight"]  # type: ignore[index]
        for each in weight:
            if isinstance(each, SpectralNorm):
                each.iterate(weight.original)
