"""Encoders, generators and critics."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rayloom.contract import TensorSpec, UserError
from rayloom_generative.fields import size_of
from rayloom_supervised.layers.activations import Activation
from rayloom_supervised.networks.perceptrons import MLP

_SLOPE = 0.2


class GaussianEncoder(nn.Module):
    """Maps an example to the mean and the log-variance of a diagonal normal over the latent variables.

    Without hidden layers the mean is affine and the log-variance the same for all examples, which is the form of
    probabilistic PCA's posterior.
    """

    def __init__(self, inputs: int, latent_size: int, hidden_sizes: Sequence[int], activation: Activation) -> None:
        super().__init__()
        self.shared_variance = not hidden_sizes
        outputs = latent_size if self.shared_variance else 2 * latent_size
        self.network = MLP((inputs, *hidden_sizes, outputs), activation)
        if self.shared_variance:
            self.log_variance = nn.Parameter(torch.zeros(latent_size))

    def forward(self, data: Tensor) -> tuple[Tensor, Tensor]:
        """Map [B, ...] to mean and log-variance, [B, L] each."""
        outputs: Tensor = self.network(data)
        if self.shared_variance:
            return outputs, self.log_variance.expand_as(outputs)
        mean, log_variance = outputs.chunk(2, dim=1)
        return mean, log_variance


class Shaped(nn.Module):
    """A network whose flat outputs [B, n] become examples [B, *shape], through tanh for images in -1..1."""

    def __init__(self, network: nn.Module, shape: tuple[int, ...], bounded: bool) -> None:
        super().__init__()
        self.network = network
        self.shape = shape
        self.bounded = bounded

    def forward(self, inputs: Tensor) -> Tensor:
        """Map [B, ...] to [B, *shape]."""
        outputs: Tensor = self.network(inputs).reshape(-1, *self.shape)
        return outputs.tanh() if self.bounded else outputs


class Score(nn.Module):
    """A network with one output whose [B, 1] becomes [B]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, data: Tensor) -> Tensor:
        """Map [B, ...] to [B]."""
        scores: Tensor = self.network(data).squeeze(1)
        return scores


def mlp_generator(latent_size: int, field: TensorSpec, hidden_sizes: Sequence[int], activation: Activation) -> Shaped:
    """Return a fully connected generator of images in -1..1 or of points."""
    network = MLP((latent_size, *hidden_sizes, size_of(field)), activation)
    return Shaped(network, field.shape, bounded=len(field.shape) == 3)


def mlp_critic(field: TensorSpec, hidden_sizes: Sequence[int], activation: Activation) -> Score:
    """Return a fully connected critic."""
    return Score(MLP((size_of(field), *hidden_sizes, 1), activation))


def _quarter(field: TensorSpec) -> tuple[int, int, int]:
    if len(field.shape) != 3 or field.shape[1] % 4 or field.shape[2] % 4:
        raise UserError(
            f"algorithm.network: conv needs images whose sides are multiples of 4, not {field.shape}; use mlp"
        )
    return field.shape[0], field.shape[1] // 4, field.shape[2] // 4


def conv_generator(latent_size: int, field: TensorSpec, channels: int) -> Shaped:
    """Return a generator in the manner of DCGAN (Radford et al. 2016): two transposed convolutions of stride 2.

    Departures: no normalisation, and half the depth, for images of 8 to 32 pixels.
    """
    colours, height, width = _quarter(field)
    network = nn.Sequential(
        nn.Linear(latent_size, 2 * channels * height * width),
        nn.ReLU(),
        nn.Unflatten(1, (2 * channels, height, width)),
        nn.ConvTranspose2d(2 * channels, channels, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(channels, colours, 4, stride=2, padding=1),
    )
    return Shaped(network, field.shape, bounded=True)


def conv_critic(field: TensorSpec, channels: int) -> Score:
    """Return two convolutions of stride 2 and a linear layer; no batch norm, which would couple the examples."""
    colours, height, width = _quarter(field)
    return Score(
        nn.Sequential(
            nn.Conv2d(colours, channels, 4, stride=2, padding=1),
            nn.LeakyReLU(_SLOPE),
            nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1),
            nn.LeakyReLU(_SLOPE),
            nn.Flatten(),
            nn.Linear(2 * channels * height * width, 1),
        )
    )
