"""The networks that a config names, from the specification of their input to outputs [B, outputs].

One of your own is a torch.nn.Module with a frozen dataclass `Config` and `__init__(self, config, spec, outputs)`, or a
function marked @component("network", Config) that returns one: `network: {import: "mine:Net", width: 64}`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le, Lt, MinLen
from torch import nn

from rayloom.contract import Component, Kinds, Shipped, TensorSpec, UserError, component
from rayloom_supervised.layers.activations import Activation
from rayloom_supervised.networks.alexnet import AlexNet
from rayloom_supervised.networks.convolutional import ConvolutionalNetwork, LeNet5
from rayloom_supervised.networks.inception import InceptionNetwork
from rayloom_supervised.networks.lenet_1998 import LeNet51998
from rayloom_supervised.networks.perceptrons import MLP, Linear
from rayloom_supervised.networks.recurrent import Cell, RecurrentNetwork
from rayloom_supervised.networks.residual import ResidualNetwork

Size = Annotated[int, Ge(1)]
Layers = Annotated[int, Ge(1), Le(1_000)]
Share = Annotated[float, Ge(0), Lt(1)]


@component("network")
def softmax_regression(config: object, spec: TensorSpec, outputs: int) -> nn.Module:
    """An affine map of the flattened input: with the cross-entropy, softmax regression."""
    return Linear(math.prod(spec.shape), outputs)


@dataclass(frozen=True, kw_only=True)
class MLPConfig:
    """Fully connected layers over the flattened input."""

    hidden_sizes: tuple[Size, ...] = (256, 128)
    """Units of the hidden layers."""
    activation: Activation = "relu"
    """Nonlinearity of the hidden layers."""
    dropout: Share = 0.0
    """Probability of dropping a unit of a hidden layer."""


@component("network", MLPConfig)
def mlp(config: MLPConfig, spec: TensorSpec, outputs: int) -> nn.Module:
    """Return the perceptron."""
    return MLP((math.prod(spec.shape), *config.hidden_sizes, outputs), config.activation, config.dropout)


@dataclass(frozen=True, kw_only=True)
class LeNet5Config:
    """LeNet-5 in its modern form (LeCun et al. 1998): two convolutions, then fully connected layers."""

    channels: tuple[Size, Size] = (6, 16)
    """Feature maps of the two convolutions."""
    hidden_sizes: tuple[Size, ...] = (120, 84)
    """Units of the fully connected hidden layers."""
    activation: Activation = "relu"
    """Nonlinearity of the convolutions and of the hidden layers."""
    dropout: Share = 0.0
    """Probability of dropping a unit of a fully connected hidden layer."""


@component("network", LeNet5Config)
def lenet5(config: LeNet5Config, spec: TensorSpec, outputs: int) -> nn.Module:
    """Return the LeNet-5."""
    shape = _image_shape("lenet5", spec, 4)
    return LeNet5(shape, outputs, config.channels, config.hidden_sizes, config.activation, config.dropout)


@dataclass(frozen=True, kw_only=True)
class CNNConfig:
    """Any number of blocks of convolution and pooling, then fully connected layers."""

    channels: Annotated[tuple[Size, ...], MinLen(1)] = (32, 64)
    """Feature maps of each convolution, one block each."""
    hidden_sizes: tuple[Size, ...] = (128,)
    """Units of the fully connected hidden layers."""
    activation: Activation = "relu"
    """Nonlinearity of the convolutions and of the hidden layers."""
    dropout: Share = 0.0
    """Probability of dropping a unit of a fully connected hidden layer."""


@component("network", CNNConfig)
def cnn(config: CNNConfig, spec: TensorSpec, outputs: int) -> nn.Module:
    """Return the convolutional network."""
    shape = _image_shape("cnn", spec, 1)
    return ConvolutionalNetwork(shape, outputs, config.channels, config.hidden_sizes, config.activation, config.dropout)


@component("network")
def lenet5_1998(config: object, spec: TensorSpec, outputs: int) -> nn.Module:
    """LeNet-5 as published: connection table, trainable pooling, radial basis functions; 60,000 parameters."""
    return LeNet51998(_image_shape("lenet5_1998", spec, 4), outputs)


@dataclass(frozen=True, kw_only=True)
class AlexNetConfig:
    """AlexNet for small images (Krizhevsky et al. 2012)."""

    channels: Annotated[tuple[Size, ...], MinLen(3)] = (48, 96, 128, 128, 96)
    """Feature maps of the convolutions."""
    hidden_sizes: tuple[Size, ...] = (512, 512)
    """Units of the fully connected hidden layers."""
    dropout: Share = 0.5
    """Probability of dropping a unit of a fully connected hidden layer."""


@component("network", AlexNetConfig)
def alexnet(config: AlexNetConfig, spec: TensorSpec, outputs: int) -> nn.Module:
    """Return the network."""
    shape = _image_shape("alexnet", spec, 8)
    return AlexNet(shape, outputs, config.channels, config.hidden_sizes, config.dropout)


@dataclass(frozen=True, kw_only=True)
class InceptionConfig:
    """Inception modules for small images (Szegedy et al. 2015)."""

    width: Size = 1
    """Multiplies all feature maps."""
    dropout: Share = 0.2
    """Probability of dropping a feature before the linear layer."""


@component("network", InceptionConfig)
def inception(config: InceptionConfig, spec: TensorSpec, outputs: int) -> nn.Module:
    """Return the network."""
    return InceptionNetwork(_image_shape("inception", spec, 4), outputs, config.width, config.dropout)


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """A residual network for small images (He et al. 2016); three blocks in each of three stages: ResNet-20."""

    blocks: Layers = 3
    """Residual blocks in each stage."""
    channels: Annotated[tuple[Size, ...], MinLen(1)] = (16, 32, 64)
    """Feature maps of each stage, not fewer from one to the next."""

    def __post_init__(self) -> None:
        """Refuse stages that lose maps, since the shortcut can only add some."""
        if list(self.channels) != sorted(self.channels):
            raise ValueError("a stage of a resnet may not have fewer channels than the one before it")


@component("network", ResNetConfig)
def resnet(config: ResNetConfig, spec: TensorSpec, outputs: int) -> nn.Module:
    """Return the network."""
    return ResidualNetwork(_image_shape("resnet", spec, 4), outputs, config.blocks, config.channels)


@dataclass(frozen=True, kw_only=True)
class RNNConfig:
    """A recurrent network that reads an image row by row."""

    cell: Cell = "lstm"
    """Recurrent cell."""
    cell_size: Size = 128
    """Units of each recurrent layer."""
    cell_layers: Layers = 1
    """Recurrent layers on top of each other."""
    hidden_sizes: tuple[Size, ...] = ()
    """Units of fully connected hidden layers between the last state and the outputs."""
    activation: Activation = "relu"
    """Nonlinearity of the hidden layers."""
    dropout: Share = 0.0
    """Probability of dropping a unit of a hidden layer."""

    def __post_init__(self) -> None:
        """Refuse a dropout that nothing would read."""
        if self.dropout and not self.hidden_sizes:
            raise ValueError("an rnn without hidden_sizes has no units to drop; give some, or leave dropout out")


@component("network", RNNConfig)
def rnn(config: RNNConfig, spec: TensorSpec, outputs: int) -> nn.Module:
    """Return the recurrent network."""
    shape = _image_shape("rnn", spec, 1)
    head = (config.hidden_sizes, config.activation, config.dropout)
    return RecurrentNetwork(shape, outputs, config.cell, config.cell_size, config.cell_layers, *head)


NETWORKS = Kinds(
    "network",
    {
        function.__name__: Shipped(f"{__name__}:{function.__name__}")
        for function in (softmax_regression, mlp, lenet5, lenet5_1998, cnn, alexnet, inception, resnet, rnn)
    },
    own="a torch.nn.Module built from (config, spec, outputs), or a function marked @component('network', Config) that "
    "returns one",
    base="torch.nn:Module",
    default="mlp",
)
"""Networks from one input to a number of outputs."""


def build_network(network: Component, spec: TensorSpec, outputs: int) -> nn.Module:
    """Return the network that a config names, for inputs [B, *spec.shape] and outputs [B, outputs]."""
    built = network.load()(network.settings, spec, outputs)
    if not isinstance(built, nn.Module):
        raise UserError(f"algorithm.network: {network.name} must return a torch.nn.Module, not {type(built).__name__}")
    return built


def _image_shape(network: str, image: TensorSpec, smallest: int) -> tuple[int, int, int]:
    if len(image.shape) != 3 or min(image.shape[1:]) < smallest:
        raise UserError(
            f"algorithm.network: {network} needs images (channels, height, width) with sides of {smallest} "
            f"pixel{'s' * (smallest > 1)} or more, not {image.shape}; use mlp"
        )
    channels, height, width = image.shape
    return channels, height, width
