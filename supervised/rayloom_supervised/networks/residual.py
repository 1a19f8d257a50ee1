"""Residual networks for small images: He, Zhang, Ren and Sun (2016), "Deep residual learning", section 4.2."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayloom_supervised.layers.batch_norm import GlobalBatchNorm


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm beside a shortcut, which takes every second pixel and pads with zero maps
    where the shape changes (option A of the paper, without parameters)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.first_norm, self.second_norm = GlobalBatchNorm(outputs), GlobalBatchNorm(outputs)
        self._stride, self._more = stride, outputs - inputs
        for convolution in (self.first, self.second):
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, outputs, H / stride, W / stride]."""
        shortcut = images[:, :, :: self._stride, :: self._stride]
        if self._more:
            shortcut = F.pad(shortcut, (0, 0, 0, 0, self._more // 2, self._more - self._more // 2))
        inner = torch.relu(self.first_norm(self.first(images)))
        return torch.relu(shortcut + self.second_norm(self.second(inner)))


class ResidualNetwork(nn.Module):
    """A 3x3 convolution, stages of residual blocks that halve the image from the second one on, the mean over the
    image, and a linear layer: 6 n + 2 layers for n blocks in each of three stages."""

    def __init__(self, shape: tuple[int, int, int], outputs: int, blocks: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(shape[0], channels[0], 3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.stem.weight, mode="fan_out", nonlinearity="relu")
        self.stem_norm = GlobalBatchNorm(channels[0])
        layers, inputs = [], channels[0]
        for stage, maps in enumerate(channels):
            for block in range(blocks):
                layers.append(ResidualBlock(inputs, maps, stride=2 if stage and not block else 1))
                inputs = maps
        self.blocks = nn.Sequential(*layers)
        self.output = nn.Linear(channels[-1], outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, C, H, W] to [B, outputs]."""
        maps = self.blocks(torch.relu(self.stem_norm(self.stem(images))))
        outputs: Tensor = self.output(maps.mean((2, 3)))
        return outputs
