"""Generators and critics that a config names.

One of your own is a torch.nn.Module with a frozen dataclass `Config`, or a function marked by @component("generator",
Config) or @component("critic", Config) that returns one. A generator is built from (config, inputs, example) and maps
codes [B, inputs] to examples [B, *example.shape], images in -1..1; a critic from (config, example) and maps examples to
scores [B].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge
from torch import Tensor, nn

from rayloom.contract import Component, Kinds, Shipped, TensorSpec, UserError, component
from rayloom_generative.fields import size_of
from rayloom_generative.layers.batch_norm import GlobalBatchNorm
from rayloom_supervised.layers.activations import Activation
from rayloom_supervised.networks.perceptrons import MLP

Size = Annotated[int, Ge(1)]
Normalization = Literal["none", "batch", "layer"]
_SLOPE = 0.2


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


@dataclass(frozen=True, kw_only=True)
class PerceptronConfig:
    """Fully connected layers."""

    hidden_sizes: tuple[Size, ...] = (128, 128, 128)
    """Units of the hidden layers."""
    activation: Activation = "relu"
    """Nonlinearity of the hidden layers."""


@dataclass(frozen=True, kw_only=True)
class ConvolutionalConfig:
    """Two convolutions of stride 2 and a linear layer, in the manner of DCGAN (Radford et al. 2016); images only."""

    channels: Size = 32
    """Feature maps at half the image's size."""
    doubling: bool = True
    """Whether there are twice as many maps at a quarter of the size; false: as many."""
    normalization: Normalization = "none"
    """Of the hidden layers, not of the critic's first one: over the whole global batch, or of each example's own
    features."""


@component("generator", PerceptronConfig)
def mlp_generator(config: PerceptronConfig, inputs: int, example: TensorSpec) -> nn.Module:
    """Return a fully connected generator of images or of points."""
    network = MLP((inputs, *config.hidden_sizes, size_of(example)), config.activation)
    return Shaped(network, example.shape, bounded=len(example.shape) == 3)


@component("critic", PerceptronConfig)
def mlp_critic(config: PerceptronConfig, example: TensorSpec) -> nn.Module:
    """Return a fully connected critic."""
    return Score(MLP((size_of(example), *config.hidden_sizes, 1), config.activation))


@component("generator", ConvolutionalConfig)
def conv_generator(config: ConvolutionalConfig, inputs: int, example: TensorSpec) -> nn.Module:
    """Return a linear layer and two transposed convolutions: half of DCGAN's depth, for images of 8 to 32 pixels."""
    colours, height, width = _quarter("generator", example)
    channels, inner = config.channels, _inner(config)
    biased = config.normalization != "batch"  # batch norm takes a bias away again
    network = nn.Sequential(
        nn.Linear(inputs, inner * height * width, bias=biased),
        nn.Unflatten(1, (inner, height, width)),
        *_normalized(config, inner),
        nn.ReLU(),
        nn.ConvTranspose2d(inner, channels, 4, stride=2, padding=1, bias=biased),
        *_normalized(config, channels),
        nn.ReLU(),
        nn.ConvTranspose2d(channels, colours, 4, stride=2, padding=1),
    )
    return Shaped(network, example.shape, bounded=True)


@component("critic", ConvolutionalConfig)
def conv_critic(config: ConvolutionalConfig, example: TensorSpec) -> nn.Module:
    """Return two convolutions and a linear layer."""
    colours, height, width = _quarter("critic", example)
    channels, inner = config.channels, _inner(config)
    return Score(
        nn.Sequential(
            nn.Conv2d(colours, channels, 4, stride=2, padding=1),
            nn.LeakyReLU(_SLOPE),
            nn.Conv2d(channels, inner, 4, stride=2, padding=1, bias=config.normalization != "batch"),
            *_normalized(config, inner),
            nn.LeakyReLU(_SLOPE),
            nn.Flatten(),
            nn.Linear(inner * height * width, 1),
        )
    )


def _inner(config: ConvolutionalConfig) -> int:
    return config.channels * (2 if config.doubling else 1)


def _normalized(config: ConvolutionalConfig, channels: int) -> list[nn.Module]:
    if config.normalization == "batch":
        return [GlobalBatchNorm(channels)]
    return [nn.GroupNorm(1, channels)] if config.normalization == "layer" else []


def _quarter(key: str, example: TensorSpec) -> tuple[int, int, int]:
    if len(example.shape) != 3 or example.shape[1] % 4 or example.shape[2] % 4:
        raise UserError(
            f"algorithm.{key}: conv needs images whose sides are multiples of 4, not {example.shape}; use mlp"
        )
    return example.shape[0], example.shape[1] // 4, example.shape[2] // 4


GENERATORS = Kinds(
    "generator",
    {"mlp": Shipped(f"{__name__}:mlp_generator"), "conv": Shipped(f"{__name__}:conv_generator")},
    own="a torch.nn.Module built from (config, inputs, example), or a function marked @component('generator', Config) "
    "that returns one",
    base="torch.nn:Module",
    default="mlp",
)
"""Networks from codes to examples."""

CRITICS = Kinds(
    "critic",
    {"mlp": Shipped(f"{__name__}:mlp_critic"), "conv": Shipped(f"{__name__}:conv_critic")},
    own="a torch.nn.Module built from (config, example), or a function marked @component('critic', Config) that "
    "returns one",
    base="torch.nn:Module",
    default="mlp",
)
"""Networks from examples to one score each."""


def build_part(key: str, part: Component, *arguments: object) -> nn.Module:
    """Return the generator or critic that a config names at `key`; UserError where it makes no module."""
    built = part.load()(part.settings, *arguments)
    if not isinstance(built, nn.Module):
        raise UserError(f"algorithm.{key}: {part.name} must return a torch.nn.Module, not {type(built).__name__}")
    return built
