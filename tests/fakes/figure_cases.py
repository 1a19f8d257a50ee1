"""One figure of every kind, with all that it can show."""

from __future__ import annotations

import math

import torch

from rayloom.contract import Figure


def figures() -> dict[str, Figure]:
    """Return them by name."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(300, 2, generator=generator)
    groups = torch.arange(300) % 3
    centres = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    x = torch.linspace(0, 2 * math.pi, 60)
    disc = (torch.arange(24) - 12).square()
    ball = (disc[:, None] + disc[None, :] < 30).float()
    frames = torch.stack([ball.roll(shift, 1) for shift in range(-8, 9, 2)])[:, None]
    return {
        "images": Figure("images", torch.rand(6, 3, 16, 16, generator=generator), columns=3),
        "captioned_images": Figure(
            "images", torch.rand(5, 1, 16, 16, generator=generator), columns=3,
            labels=("first\nof two lines", "b", "c", "d", "the caption of an image is cut where it is too long"),
        ),
        "matrix": Figure(
            "matrix", torch.tensor([[5.0, 1.0, 0.0], [2.0, 7.0, 3.0]]), labels=("cat", "dog"),
            column_labels=("cat", "dog", "bird"),
        ),
        "points": Figure(
            "points", noise + centres[groups], groups=groups, labels=("red", "green", "blue"),
            reference=torch.randn(200, 2, generator=generator) * 3, axes=("first", "second"),
        ),
        "plain_points": Figure("points", noise),
        "curves": Figure(
            "curves", torch.stack([x.sin(), x.cos()]), labels=("sine", "cosine"), x=x, axes=("angle", "value")
        ),
        "histogram": Figure(
            "histogram", torch.randn(2, 500, generator=generator) + torch.tensor([[0.0], [2.0]]),
            labels=("before", "after"), axes=("return", "episodes"),
        ),
        "text": Figure("text", text="the first line\nthe second: ä\n"),
        "table": Figure(
            "table", torch.tensor([[0.5, 12.0], [0.25, 1234.5678]]), labels=("greedy", "random"),
            column_labels=("share", "return"),
        ),
        "animation": Figure("animation", frames, frames_per_second=10.0),
    }  # fmt: skip
