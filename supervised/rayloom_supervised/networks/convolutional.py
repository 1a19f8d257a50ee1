"""Convolutional networks for images [B, C, H, W]."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from rayloom_supervised.layers.activations import Activation, activation_module, initialize_hidden
from rayloom_supervised.networks.perceptrons import MLP


class LeNet5(nn.Module):
    """The modern form of LeNet-5 (LeCun et al. 1998, "Gradient-based learning applied to document recognition").

    Departures from the paper: dense second convolution instead of the connection table, max pooling without trainable
    coefficients, any activation, linear outputs instead of radial basis functions, optional dropout on the fully
    connected layers. The first convolution pads by 2, so that 28x28 images give the paper's maps. Images with a side
    below 16 pixels get a second convolution of 3x3 that pads by 1, for 5x5 would not fit into 4x4 maps.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        outputs: int,
        channels: tuple[int, int] = (6, 16),
        hidden_sizes: Sequence[int] = (120, 84),
        activation: Activation = "relu",
        dropout: float = 0.0,
    ) -> None:
        """Build for images of `shape` (C, H, W), each side at least 4."""
        super().__init__()
        small = min(shape[1:]) < 16
        first = nn.Conv2d(shape[0], channels[0], 5, padding=2)
        second = nn.Conv2d(channels[0], channels[1], 3 if small else 5, padding=1 if small else 0)
        for convolution in (first, second):
            initialize_hidden(convolution, activation)
        self.features = nn.Sequential(
            first,
            activation_module(activation),
            nn.MaxPool2d(2),
            second,
            activation_module(activation),
            nn.MaxPool2d(2),
        )
        height, width = ((side // 2 if small else side // 2 - 4) // 2 for side in shape[1:])
        self.classifier = MLP((channels[1] * height * width, *hidden_sizes, outputs), activation, dropout)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, C, H, W] to [B, outputs]."""
        outputs: Tensor = self.classifier(self.features(images))
        return outputs


class ConvolutionalNetwork(nn.Module):
    """Blocks of a 3x3 convolution that pads by 1, activation and 2x2 max pooling, then fully connected layers.

    Small filters in depth follow Simonyan and Zisserman (2015). A block leaves its pooling out once a side of the maps
    is 1, so that any number of blocks fits images of any size; pooling drops the last row or column of an odd side.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        outputs: int,
        channels: Sequence[int] = (32, 64),
        hidden_sizes: Sequence[int] = (128,),
        activation: Activation = "relu",
        dropout: float = 0.0,
    ) -> None:
        """Build one block for each of `channels`, for images of `shape` (C, H, W)."""
        super().__init__()
        layers: list[nn.Module] = []
        _, height, width = shape
        for inputs, maps in pairwise((shape[0], *channels)):
            convolution = nn.Conv2d(inputs, maps, 3, padding=1)
            initialize_hidden(convolution, activation)
            layers += [convolution, activation_module(activation)]
            if min(height, width) >= 2:
                layers.append(nn.MaxPool2d(2))
                height, width = height // 2, width // 2
        self.features = nn.Sequential(*layers)
        self.classifier = MLP((channels[-1] * height * width, *hidden_sizes, outputs), activation, dropout)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, C, H, W] to [B, outputs]."""
        outputs: Tensor = self.classifier(self.features(images))
        return outputs
