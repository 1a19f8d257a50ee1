"""AlexNet at the size of small images: Krizhevsky, Sutskever and Hinton (2012)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from rayloom_supervised.layers.activations import initialize_hidden
from rayloom_supervised.networks.perceptrons import MLP


class AlexNet(nn.Module):
    """Five convolutions with overlapping pooling after the first, second and fifth, local response normalisation after
    the first two, and two fully connected layers with dropout.

    Departures from the paper, for images of 28 to 32 pixels: filters of 5x5, 5x5 and 3x3 with stride 1 instead of 11x11
    with stride 4; fewer units; one device, without groups.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        outputs: int,
        channels: Sequence[int],
        hidden_sizes: Sequence[int],
        dropout: float,
    ) -> None:
        """Build for images of `shape` (C, H, W), each side at least 8."""
        super().__init__()
        layers: list[nn.Module] = []
        inputs, sides = shape[0], list(shape[1:])
        for number, maps in enumerate(channels):
            size = 5 if number < 2 else 3
            convolution = nn.Conv2d(inputs, maps, size, padding=size // 2)
            initialize_hidden(convolution, "relu")
            layers += [convolution, nn.ReLU()]
            if number < 2:
                layers.append(nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0))
            if number in (0, 1, len(channels) - 1):
                layers.append(nn.MaxPool2d(3, stride=2, padding=1))
                sides = [(side + 1) // 2 for side in sides]
            inputs = maps
        self.features = nn.Sequential(*layers)
        self.classifier = MLP((inputs * sides[0] * sides[1], *hidden_sizes, outputs), "relu", dropout)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, C, H, W] to [B, outputs]."""
        outputs: Tensor = self.classifier(self.features(images))
        return outputs
