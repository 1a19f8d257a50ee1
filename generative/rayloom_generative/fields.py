"""What generative models read and show: one field of the data set, images or points."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rayloom.contract import Figure, Spec, TensorSpec, UserError

_SHOWN_SEED = 0


def data_field(spec: Spec) -> tuple[str, TensorSpec]:
    """Return the field to model, `image` [C, H, W] or `point` [D]; raise UserError where there is none."""
    for name, dimensions in (("image", 3), ("point", 1)):
        if name in spec and len(spec[name].shape) == dimensions:
            return name, spec[name]
    raise UserError(
        f"source.dataset: a generative model needs the field image (channels, height, width) or point, "
        f"not {sorted(spec)}; choose another data set"
    )


def size_of(field: TensorSpec) -> int:
    """Return the numbers in one example."""
    return math.prod(field.shape)


def unit_range(images: Tensor) -> Tensor:
    """Return images as float32 in 0..1: bytes are divided by 255, reals stay."""
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def check_unit_range(images: Tensor) -> None:
    """Raise UserError for images [B, C, H, W] of reals outside 0..1, which no decoder of pixels can reach.

    Bytes always fit, and are not looked at: looking waits for the device.
    """
    if images.dtype == torch.uint8 or not images.is_floating_point():
        return
    lowest, highest = (float(bound) for bound in images.aminmax())
    if not (lowest >= 0 and highest <= 1):
        raise UserError(
            f"source.dataset: its images must be bytes or reals in 0..1, and these go from {lowest:.4g} to "
            f"{highest:.4g}; scale them, or save them as bytes from 0 to 255"
        )


def shown_latents(count: int, size: int, device: torch.device) -> Tensor:
    """Return the standard normal [count, size] behind every picture, so that pictures over time are comparable."""
    return torch.randn(count, size, generator=torch.Generator().manual_seed(_SHOWN_SEED)).to(device)


def originals_above(originals: Tensor, reconstructions: Tensor, columns: int = 8) -> Figure:
    """Return images [M, C, H, W] in rows: originals, their reconstructions, and so on."""
    count = min(len(originals), len(reconstructions))
    columns = min(columns, count)
    # Whole rows only: in a shorter last row the reconstructions would slide up beside their originals.
    rows = [
        images[start : start + columns]
        for start in range(0, count - columns + 1, columns)
        for images in (originals, reconstructions)
    ]
    return Figure("images", torch.cat(rows), columns=columns)


def drawn(samples: Tensor, reference: Tensor | None = None, animate: bool = False) -> Figure:
    """Return samples as images [M, C, H, W], points in the plane [M, 2], or a matrix [M, D] of other points.

    `animate` for the first two: samples of the same codes at every evaluation.
    """
    if samples.ndim == 4:
        return Figure("images", samples, animate=animate)
    if samples.shape[1] == 2:
        return Figure("points", samples, reference=reference, animate=animate)
    return Figure("matrix", samples)


def check_walk(walk: object, field: str) -> None:
    """Refuse (UserError) the option `walk` of `sample` where it is no truth value, or there are no images to show."""
    if not isinstance(walk, bool):
        raise UserError(f"sample: walk is {walk!r}; write true or false")
    if walk and field != "image":
        raise UserError("sample: walk shows images on the way from one to the next, and these are points; leave it out")
