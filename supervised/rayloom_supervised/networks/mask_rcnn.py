"""The parts of a small Mask R-CNN: He, Gkioxari, Dollár and Girshick (2017), "Mask R-CNN".

image -> coarse maps (1/4) -> region proposals
           |
         fine maps (1/2) --RoIAlign--> class and box;  mask
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDE = 4
"""Pixels between two anchors."""
BOX_BINS, MASK_BINS = 7, 14
"""Bins of RoIAlign for the class and the box, and for the mask, of which there are twice as many pixels."""


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    # Group norm (Wu and He 2018) and not batch norm: an example's loss does not depend on the others.
    layers = [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.GroupNorm(8, outputs), nn.ReLU()]
    return nn.Sequential(*layers)


class Backbone(nn.Module):
    """A convolutional network with one step of a feature pyramid (Lin et al. 2017)."""

    def __init__(self, channels: int, inputs: int = 3) -> None:
        super().__init__()
        self.fine = nn.Sequential(_block(inputs, channels, 2), _block(channels, channels))
        self.coarse = nn.Sequential(
            _block(channels, 2 * channels, 2),
            *(_block(2 * channels, 2 * channels) for _ in range(3)),
        )
        self.lateral = nn.Conv2d(channels, channels, 1)
        self.down = nn.Conv2d(2 * channels, channels, 1)
        self.smooth = _block(channels, channels)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images [B, 3, H, W] to coarse maps [B, 2C, H / 4, W / 4] and fine ones [B, C, H / 2, W / 2]."""
        fine = self.fine(images)
        coarse = self.coarse(fine)
        raised = F.interpolate(self.down(coarse), size=fine.shape[2:], mode="nearest")
        return coarse, self.smooth(self.lateral(fine) + raised)


class ProposalHead(nn.Module):
    """Says of each anchor whether an object is there and how its box lies to it (Ren et al. 2015)."""

    def __init__(self, channels: int, anchors: int) -> None:
        super().__init__()
        self.hidden = _block(channels, channels)
        self.object = nn.Conv2d(channels, anchors, 1)
        self.change = nn.Conv2d(channels, 4 * anchors, 1)
        nn.init.normal_(self.change.weight, std=0.01)
        nn.init.zeros_(self.change.bias)  # type: ignore[arg-type]

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Map [B, C, H, W] to logits [B, H * W * A] and changes [B, H * W * A, 4], in the order of `make_anchors`."""
        hidden = self.hidden(maps)
        logits = self.object(hidden).permute(0, 2, 3, 1).flatten(1)
        change = self.change(hidden).permute(0, 2, 3, 1).reshape(len(maps), -1, 4)
        return logits, change


class BoxHead(nn.Module):
    """Tells the class of what lies in a box, 0 for nothing, and a better box."""

    def __init__(self, channels: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(channels * BOX_BINS**2, hidden), nn.ReLU(), nn.Linear(hidden, hidden))
        self.classify = nn.Linear(hidden, classes)
        self.change = nn.Linear(hidden, 4)
        nn.init.normal_(self.change.weight, std=0.001)
        nn.init.zeros_(self.change.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Map [B, R, C, 7, 7] to logits [B, R, K] and changes [B, R, 4]."""
        hidden = F.relu(self.hidden(features.flatten(2)))
        return self.classify(hidden), self.change(hidden)


class MaskHead(nn.Module):
    """Tells for each class which pixels of a box belong to an object of it."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(_block(channels, channels), _block(channels, channels))
        self.raise_ = nn.ConvTranspose2d(channels, channels, 2, 2)
        self.output = nn.Conv2d(channels, classes, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map [B, R, C, 14, 14] to logits [B, R, K, 28, 28]."""
        maps = F.relu(self.raise_(self.hidden(features.flatten(0, 1))))
        outputs: Tensor = self.output(maps)
        return outputs.view(*features.shape[:2], *outputs.shape[1:])


def make_anchors(height: int, width: int, sizes: Sequence[float]) -> Tensor:
    """Return squares of these sides around the middle of each place of the coarse maps, [H / 4 * W / 4 * A, 4]."""
    down = (torch.arange(height // STRIDE) + 0.5) * STRIDE
    right = (torch.arange(width // STRIDE) + 0.5) * STRIDE
    y, x, side = torch.meshgrid(down, right, torch.tensor(sizes, dtype=torch.float32), indexing="ij")
    return torch.stack((x - side / 2, y - side / 2, x + side / 2, y + side / 2), -1).view(-1, 4)
