"""Augmentations of images [B, C, H, W], as components: functions of (settings, images, draws).

All chance comes from `draws`, which are those of the whole global batch, cut to the images at hand: K learners repeat
one learner's batch, and a resume needs no generator. One of your own, in `mine.py`:

    @dataclass(frozen=True, kw_only=True)
    class InvertConfig:
        probability: float = 0.1

    @component("augmentation", InvertConfig)
    def invert(config, images, draws):
        chosen = draws.uniform() < config.probability
        return torch.where(chosen.view(-1, 1, 1, 1), 255 - images, images)

is `augment: [shift, {import: "mine:invert", probability: 0.2}]` in a config.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rayloom.components import Component, component
from rayloom.config.augmentations import BrightnessConfig, CutoutConfig, FlipConfig, ShiftConfig
from rayloom.errors import UserError
from rayloom.seeding import torch_generator


class Draws:
    """Random numbers for the rows `first` to `last` of a batch of `count` images."""

    def __init__(self, generator: torch.Generator, first: int, last: int, count: int, device: torch.device) -> None:
        self._generator, self._rows, self._count, self._device = generator, slice(first, last), count, device

    def uniform(self, *shape: int) -> Tensor:
        """Return numbers [*shape, B], uniform in [0, 1)."""
        return torch.rand(*shape, self._count, generator=self._generator)[..., self._rows].to(self._device)

    def integers(self, high: int, *shape: int) -> Tensor:
        """Return whole numbers [*shape, B] from 0 to `high` - 1."""
        whole = torch.randint(0, high, (*shape, self._count), generator=self._generator)
        return whole[..., self._rows].to(self._device)


def augment(
    chosen: tuple[Component, ...], images: Tensor, address: tuple[int, ...], first: int, last: int, count: int
) -> Tensor:
    """Return images [B, C, H, W] after one augmentation after the other.

    They are the rows `first` to `last` of a batch of `count`; `address` is (seed, epoch, position). UserError where an
    augmentation of one's own changes shape or type.
    """
    seed, *place = address
    draws = Draws(torch_generator(seed, "augment", *place), first, last, count, images.device)
    for each in chosen:
        changed = each.load()(each.settings, images, draws)
        if not isinstance(changed, Tensor) or (changed.shape, changed.dtype) != (images.shape, images.dtype):
            found = f"{changed.dtype} {list(changed.shape)}" if isinstance(changed, Tensor) else type(changed).__name__
            raise UserError(
                f"source.augment: {each.name} must return images {images.dtype} {list(images.shape)}, not {found}"
            )
        images = changed
    return images


@component("augmentation", ShiftConfig)
def shift(config: ShiftConfig, images: Tensor, draws: Draws) -> Tensor:
    """Return images that have moved."""
    return shift_images(images, draws.integers(2 * config.pixels + 1, 2), config.pixels)


def shift_images(images: Tensor, offsets: Tensor, margin: int) -> Tensor:
    """Move images [B, C, H, W] down and right by `margin - offsets` pixels and fill with zeros.

    `offsets` [2, B], integers 0..2 * margin, hold the vertical and the horizontal offsets.
    """
    height, width = images.shape[2:]
    padded = F.pad(images, (margin,) * 4)
    # A view of all windows [B, C, 2 * margin + 1, 2 * margin + 1, H, W]; indexing copies one window of each image.
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(len(images), device=images.device), :, offsets[0], offsets[1]]


@component("augmentation", FlipConfig)
def flip(config: FlipConfig, images: Tensor, draws: Draws) -> Tensor:
    """Return images of which some are mirrored."""
    chosen = draws.uniform() < config.probability
    return torch.where(chosen.view(-1, 1, 1, 1), images.flip(3), images)


@component("augmentation", CutoutConfig)
def cutout(config: CutoutConfig, images: Tensor, draws: Draws) -> Tensor:
    """Return images with a black square, whose middle lies anywhere in the image."""
    outside = []
    for dim in (2, 3):
        side = images.shape[dim]
        start = draws.integers(side).view(-1, 1) - config.size // 2
        place = torch.arange(side, device=images.device)
        outside.append((place < start) | (place >= start + config.size))
    kept = outside[0].unsqueeze(2) | outside[1].unsqueeze(1)  # [B, H, W]
    return images * kept.unsqueeze(1).to(images.dtype)


@component("augmentation", BrightnessConfig)
def brightness(config: BrightnessConfig, images: Tensor, draws: Draws) -> Tensor:
    """Return images that are darker or lighter; bytes stay in 0..255."""
    factor = (1 + config.amount * (2 * draws.uniform() - 1)).view(-1, 1, 1, 1)
    changed = images * factor
    if images.dtype == torch.uint8:
        changed = changed.round().clamp(0, 255)
    return changed.to(images.dtype)
