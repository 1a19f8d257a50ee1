"""Inception modules for small images: Szegedy et al. (2015), "Going deeper with convolutions"."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rayloom_supervised.layers.activations import initialize_hidden

_POOLED_SIDE = 16


def _convolution(inputs: int, outputs: int, size: int) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, size, padding=size // 2)
    initialize_hidden(layer, "relu")
    return nn.Sequential(layer, nn.ReLU())


class Inception(nn.Module):
    """Convolutions of 1x1, 3x3 and 5x5, the larger ones behind one of 1x1 that reduces the maps, and a pooling, side
    by side (figure 2b of the paper)."""

    def __init__(self, inputs: int, ones: int, threes: tuple[int, int], fives: tuple[int, int], pooled: int) -> None:
        """`threes` and `fives` are the reduced maps and the maps, `pooled` the maps behind the pooling."""
        super().__init__()
        self.ones = _convolution(inputs, ones, 1)
        self.threes = nn.Sequential(_convolution(inputs, threes[0], 1), _convolution(*threes, 3))
        self.fives = nn.Sequential(_convolution(inputs, fives[0], 1), _convolution(*fives, 5))
        self.pooled = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), _convolution(inputs, pooled, 1))
        self.outputs = ones + threes[1] + fives[1] + pooled

    def forward(self, images: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, outputs, H, W]."""
        return torch.cat([branch(images) for branch in (self.ones, self.threes, self.fives, self.pooled)], dim=1)


class InceptionNetwork(nn.Module):
    """A convolution (pooled for images of 16 pixels or more), two pairs of inception modules with pooling between, the
    mean over the image, dropout and a linear layer; `width` scales the maps, 1 is a quarter of the paper's first.

    Departures: no auxiliary classifiers and no local response normalisation, which 22 layers needed and these do not.
    """

    def __init__(self, shape: tuple[int, int, int], outputs: int, width: int, dropout: float) -> None:
        super().__init__()
        stem = 16 * width
        modules: list[nn.Module] = [_convolution(shape[0], stem, 3)]
        inputs, side = stem, min(shape[1:])
        if side >= _POOLED_SIDE:
            modules.append(nn.MaxPool2d(2))
            side //= 2
        for size in (1, 2):
            for _ in range(2):
                maps = 8 * width * size
                block = Inception(inputs, 2 * maps, (2 * maps, 4 * maps), (maps // 2, maps), maps)
                modules.append(block)
                inputs = block.outputs
            if size == 1 and side >= 2:
                modules.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*modules)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(inputs, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, C, H, W] to [B, outputs]."""
        outputs: Tensor = self.output(self.dropout(self.features(images).mean((2, 3))))
        return outputs
