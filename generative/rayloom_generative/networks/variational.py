"""Encoders and decoders of variational autoencoders, with or without a condition beside the example or the code."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rayloom.contract import TensorSpec, UserError


def quarter(example: TensorSpec) -> tuple[int, int]:
    """Return the sides of an image [C, H, W] divided by 4; UserError where that leaves a remainder."""
    if len(example.shape) != 3 or example.shape[1] % 4 or example.shape[2] % 4:
        raise UserError(
            f"algorithm.network: conv needs images whose sides are multiples of 4, not {example.shape}; use mlp"
        )
    return example.shape[1] // 4, example.shape[2] // 4


def _with_planes(image: Tensor, condition: Tensor | None) -> Tensor:
    """Return the image [B, C, H, W] with a plane for each number of the condition [B, N]."""
    if condition is None:
        return image
    planes = condition[:, :, None, None].expand(-1, -1, *image.shape[2:])
    return torch.cat((image, planes), 1)


class ConvolutionalEncoder(nn.Module):
    """Two convolutions of stride 2 and two fully connected layers, from an image to the posterior of its code."""

    def __init__(self, example: TensorSpec, latent_size: int, channels: int, hidden: int, conditions: int) -> None:
        super().__init__()
        height, width = quarter(example)
        self.network = nn.Sequential(
            nn.Conv2d(example.shape[0] + conditions, channels, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2 * channels * height * width, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 2 * latent_size),
        )

    def forward(self, data: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map images [B, C, H, W] to mean and log-variance, [B, L] each."""
        mean, log_variance = self.network(_with_planes(data, condition)).chunk(2, dim=1)
        return mean, log_variance


class ConvolutionalDecoder(nn.Module):
    """The mirror of the encoder: `outputs` numbers for each number of an image, those of one beside each other."""

    def __init__(self, inputs: int, example: TensorSpec, channels: int, hidden: int, outputs: int) -> None:
        super().__init__()
        height, width = quarter(example)
        self.outputs = outputs
        self.network = nn.Sequential(
            nn.Linear(inputs, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 2 * channels * height * width),
            nn.ReLU(),
            nn.Unflatten(1, (2 * channels, height, width)),
            nn.ConvTranspose2d(2 * channels, channels, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(channels, outputs * example.shape[0], 4, stride=2, padding=1),
        )

    def forward(self, code: Tensor) -> Tensor:
        """Map codes [B, inputs] to [B, C * H * W * outputs]."""
        planes: Tensor = self.network(code)
        apart = planes.reshape(len(planes), -1, self.outputs, planes.shape[2] * planes.shape[3])
        return apart.movedim(2, -1).flatten(1)


def beside(data: Tensor, condition: Tensor | None) -> Tensor:
    """Return flat data [B, D] with the condition [B, N] beside it."""
    return data.flatten(1) if condition is None else torch.cat((data.flatten(1), condition), 1)


def one_hot(label: Tensor, classes: int) -> Tensor:
    """Return [B, classes] with a 1 at each label [B]; unlike torch's it does not wait for the device."""
    return (label[:, None] == torch.arange(classes, device=label.device)).float()
