"""Deep Dream: images changed so that a layer of a trained network says more loudly what it sees in them.

    x <- x + rate * g / mean|g|,   g = d/dx mean(a_l(x)^2)

Mordvintsev, Olah and Tyka (2015), "Inceptionism: going deeper into neural networks": gradient ascent on the squares of
one layer's activations, from small to large versions of the image (octaves), each step on an image that is moved by
some pixels (jitter), so that no pixel's place is special.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor

from rayloom.contract import Algorithm, Budget, Evaluation, EvaluationConfig, Figure, Findings, Metric
from rayloom_supervised.analysis.hidden_activations import ImageNetwork

Loudness = Callable[[Tensor], Tensor]
"""Maps images [B, C, H, W] in 0..1 to the mean square of their activations [B]."""


@dataclass(frozen=True, kw_only=True)
class DeepDreamConfig(EvaluationConfig):
    """Settings of the ascent."""

    layer: str | None = None
    """Layer whose activations grow, as network.features.3; null: the last convolution."""
    split: Literal["validation", "test"] = "validation"
    """Held-out data."""
    images: Annotated[int, Ge(1)] = 8
    """How many of them, from the first one on."""
    enlarge: Annotated[float, Ge(1)] = 4.0
    """Factor by which images are enlarged before they change."""
    octaves: Annotated[int, Ge(1)] = 3
    """Sizes of an image, of which the largest is the last."""
    octave_scale: Annotated[float, Gt(1)] = 1.4
    """Factor from one size to the next."""
    steps: Annotated[int, Ge(1)] = 10
    """Steps of gradient ascent at each size."""
    rate: Annotated[float, Gt(0)] = 0.006
    """Mean change of a pixel in one step, as a share of the range."""
    jitter: Annotated[int, Ge(0)] = 4
    """Largest distance by which an image is moved before a step (unit: pixels)."""


def ascend(loudness: Loudness, images: Tensor, rate: float, jitter: int, generator: torch.Generator) -> Tensor:
    """Return images [B, C, H, W] in 0..1 after one step of gradient ascent, each moved by the same random distance."""
    down, right = torch.randint(-jitter, jitter + 1, (2,), generator=generator).tolist()
    moved = images.detach().roll((down, right), (2, 3)).requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(loudness(moved).sum(), moved)
    size = gradient.abs().mean((1, 2, 3), keepdim=True).clamp(min=torch.finfo(gradient.dtype).tiny)
    changed = (moved.detach() + rate * gradient / size).clamp(0, 1)
    return changed.roll((-down, -right), (2, 3))


def dream(loudness: Loudness, images: Tensor, config: DeepDreamConfig, generator: torch.Generator) -> Tensor:
    """Return what images [B, C, H, W] in 0..1 become over all octaves.

    What one octave has changed is carried to the next as the difference from the image, so that the image itself loses
    nothing by being made smaller first.
    """
    largest = images.shape[2:]
    change = torch.zeros_like(images)
    changed = images
    for octave in range(config.octaves - 1, -1, -1):
        size = [max(8, round(side / config.octave_scale**octave)) for side in largest]
        base = _resized(images, size)
        changed = (base + _resized(change, size)).clamp(0, 1)
        for _ in range(config.steps):
            changed = ascend(loudness, changed, config.rate, config.jitter, generator)
        change = changed - base
    return changed


def _resized(images: Tensor, size: list[int]) -> Tensor:
    return F.interpolate(images, size, mode="bilinear", antialias=True)


class DeepDream(Evaluation):
    """Lets a trained classifier of images dream on held-out images, and draws them before and after.

    `rayloom evaluate RUN evaluate.import=rayloom_supervised.analysis.deep_dream:DeepDream`
    """

    Config = DeepDreamConfig
    metrics: ClassVar[Mapping[str, Metric]] = {
        "loudness_before": Metric(meaning="mean square of the layer's activations for the images as they are"),
        "loudness_after": Metric(better="max", meaning="the same for what has become of them"),
    }

    def run(self, policy: Algorithm, seed: int, budget: Budget) -> Findings:
        """Return how loud the layer was before and after, with the images."""
        config: DeepDreamConfig = self.config
        network = ImageNetwork(policy, self.context)
        name = config.layer or network.convolutions()[-1]
        layer = network.layers([name], "layer")

        def loudness(images: Tensor) -> Tensor:
            return network.activations(layer, images)[name].square().flatten(1).mean(1)

        table = getattr(self.context.data, config.split)
        count = min(config.images, budget.count or config.images)
        images = network.images(table, range(min(count, len(table))), "images")
        first = _resized(images, [round(config.enlarge * side) for side in images.shape[2:]])
        changed = dream(loudness, first, config, torch.Generator().manual_seed(seed))
        budget.done()
        before, after = (float(loudness(each).mean()) for each in (first, changed))
        shown = torch.cat((first, changed)).cpu()
        figures = {"dreams": Figure("images", shown, columns=len(first))} if shown.shape[1] in (1, 3) else {}
        return Findings({"loudness_before": before, "loudness_after": after}, figures)
