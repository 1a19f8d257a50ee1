"""From what an environment shows to features: vectors, images, categories, nested or not."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rayloom.contract import Spec, TensorSpec, UserError, gather_parts

MASK = "action_mask"
"""The part of an observation that says which actions are allowed; it is no feature."""
ImageNetwork = Literal["nature", "impala"]
"""nature: the convolutions of Mnih et al. 2015. impala: the deep residual network of Espeholt et al. 2018, slower."""
_SMALLEST_IMAGE = 36
"""Side from which on the strides of Mnih et al. 2015 leave something."""
_IMPALA_CHANNELS = (16, 32, 32)
_IMPALA_FEATURES = 256


class Encoder(nn.Module):
    """Turns observations [B, ...] into features [B, size].

    Images (bytes of two or more dimensions) go through convolutions, categories become one-hot, everything else is
    taken as it is; the parts are joined in their order. One vector alone needs no parameters. UserError for another
    `image_network` than the usual one where there is no image, and for large images of reals, which nobody flattens on
    purpose.
    """

    def __init__(self, spec: Spec, image_network: ImageNetwork = "nature") -> None:
        super().__init__()
        found = gather_parts(spec, "observation")
        self._plain = isinstance(found, TensorSpec)
        parts: Mapping[str, TensorSpec] = {"": found} if self._plain else found
        self._parts = {name: part for name, part in parts.items() if name != MASK}
        self.bare = isinstance(found, TensorSpec) and found.num_values is None and not is_image(found)
        self.images = nn.ModuleDict()
        sizes = []
        for place, part in enumerate(self._parts.values()):
            if is_image(part):
                image = ImageEncoder(part.shape, image_network)
                self.images[str(place)] = image
                sizes.append(image.size)
            elif _is_image_of_reals(part):
                raise UserError(
                    f"source.env: its observation {list(part.shape)} of {str(part.dtype).removeprefix('torch.')} looks "
                    "like an image; show bytes from 0 to 255, which go through convolutions, or flatten it by a wrapper"
                )
            elif part.num_values is not None:
                sizes.append(part.num_values if isinstance(part.num_values, int) else sum(part.num_values))
            else:
                sizes.append(math.prod(part.shape))
        if not sizes:
            raise UserError("source.env: its observation is nothing but an action mask, and the agent sees nothing")
        if image_network != "nature" and not self.images:
            raise UserError(
                f"algorithm.image_network: {image_network} is for images (bytes [H, W], [H, W, C] or [C, H, W]), and "
                "the environment shows none; leave it out"
            )
        self.size = sum(sizes)

    def forward(self, observation: Any) -> Tensor:
        """Return the features [B, size]; `bare` tells that these are the observations themselves."""
        given = {"": observation} if self._plain else observation
        features = [self._features(place, given[name], part) for place, (name, part) in enumerate(self._parts.items())]
        return features[0] if len(features) == 1 else torch.cat(features, dim=1)

    def _features(self, place: int, values: Tensor, part: TensorSpec) -> Tensor:
        if str(place) in self.images:
            found: Tensor = self.images[str(place)](values)
            return found
        if isinstance(part.num_values, int):
            return nn.functional.one_hot(values.long(), part.num_values).to(torch.float32)
        if part.num_values is not None:
            columns = values.reshape(len(values), -1).long().unbind(1)
            ones = [nn.functional.one_hot(one, number) for one, number in zip(columns, part.num_values, strict=True)]
            return torch.cat(ones, dim=1).to(torch.float32)
        return values.reshape(len(values), -1).to(torch.float32)


def is_image(part: TensorSpec) -> bool:
    """Return whether a part of an observation is an image: bytes [H, W], [H, W, C] or [C, H, W]."""
    return part.dtype == torch.uint8 and len(part.shape) in (2, 3) and part.num_values is None


def _is_image_of_reals(part: TensorSpec) -> bool:
    """Return whether a part is [H, W, C] or [C, H, W] with the channels of a picture and sides of 16 or more."""
    if not part.dtype.is_floating_point or len(part.shape) != 3:
        return False
    first, second, third = part.shape
    return (third in (1, 3, 4) and min(first, second) >= 16) or (first in (1, 3, 4) and min(second, third) >= 16)


class ImageEncoder(nn.Module):
    """Convolutions over images of bytes [B, H, W], [B, C, H, W] or, with 1, 3 or 4 channels, [B, H, W, C].

    With `nature` large images get the three layers of Mnih et al. 2015, small ones three of 3x3 with stride 2. With
    `impala` all get the 15 convolutions and the linear layer of Espeholt et al. 2018 (arXiv 1802.01561, figure 3).
    """

    def __init__(self, shape: tuple[int, ...], network: ImageNetwork = "nature") -> None:
        super().__init__()
        self._channels_last = len(shape) == 3 and shape[2] in (1, 3, 4) and shape[0] not in (1, 3, 4)
        if len(shape) == 2:
            shape = (1, *shape)
        channels, height, width = (shape[2], *shape[:2]) if self._channels_last else shape
        self._shape = (channels, height, width)
        self.layers = _residual(channels, height, width) if network == "impala" else _plain(channels, height, width)
        with torch.no_grad():
            self.size = self.layers(torch.zeros(1, *self._shape)).shape[1]

    def forward(self, images: Tensor) -> Tensor:
        """Return the features [B, size]."""
        scaled = images.to(torch.float32) / 255.0
        scaled = scaled.permute(0, 3, 1, 2) if self._channels_last else scaled.reshape(len(images), *self._shape)
        features: Tensor = self.layers(scaled)
        return features


def _plain(channels: int, height: int, width: int) -> nn.Sequential:
    if min(height, width) >= _SMALLEST_IMAGE:
        layers = [nn.Conv2d(channels, 32, 8, 4), nn.Conv2d(32, 64, 4, 2), nn.Conv2d(64, 64, 3, 1)]
    else:
        layers = [nn.Conv2d(a, b, 3, 2, padding=1) for a, b in ((channels, 16), (16, 32), (32, 32))]
    return nn.Sequential(*(module for layer in layers for module in (layer, nn.ReLU())), nn.Flatten())


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))) with 3x3 convolutions that keep the shape [B, C, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, images: Tensor) -> Tensor:
        """Return images of the same shape."""
        # Not in place: the first rectified linear unit would change what is added.
        added: Tensor = images + self.second(torch.relu(self.first(torch.relu(images))))
        return added


def _residual(channels: int, height: int, width: int) -> nn.Sequential:
    modules: list[nn.Module] = []
    for before, after in itertools.pairwise((channels, *_IMPALA_CHANNELS)):
        modules += [nn.Conv2d(before, after, 3, padding=1), nn.MaxPool2d(3, 2, padding=1)]
        modules += [ResidualBlock(after), ResidualBlock(after)]
        height, width = (height + 1) // 2, (width + 1) // 2
    flat = _IMPALA_CHANNELS[-1] * height * width
    return nn.Sequential(*modules, nn.ReLU(), nn.Flatten(), nn.Linear(flat, _IMPALA_FEATURES), nn.ReLU())
