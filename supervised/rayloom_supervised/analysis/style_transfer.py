"""Style transfer: an image with the content of one and the style of another, as a trained network sees both.

Gatys, Ecker and Bethge (2016), "Image style transfer using convolutional neural networks". With the activations F_l
[N, M] of layer l, N maps of M places, and the Gram matrices G_l = F_l F_l^T:

    L = content_weight * 1/2 sum (F_c(x) - F_c(content))^2
      + style_weight * mean over l of 1 / (4 N^2 M^2) sum (G_l(x) - G_l(style))^2
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, MinLen
from torch import Tensor, nn

from rayloom.contract import Algorithm, Budget, Evaluation, EvaluationConfig, Figure, Findings, Metric
from rayloom_supervised.analysis.hidden_activations import ImageNetwork

_Row = Annotated[int, Ge(0)]


@dataclass(frozen=True, kw_only=True)
class StyleTransferConfig(EvaluationConfig):
    """Settings of the optimisation over the image."""

    split: Literal["validation", "test"] = "validation"
    """Held-out data."""
    contents: Annotated[tuple[_Row, ...], MinLen(1)] = (0, 1, 2, 3)
    """Examples whose content is kept, by their row in the split."""
    styles: Annotated[tuple[_Row, ...], MinLen(1)] = (4, 5, 6)
    """Examples whose style each of them is given."""
    content_layer: str | None = None
    """Layer whose activations are the content; null: the last convolution."""
    style_layers: tuple[str, ...] = ()
    """Layers whose Gram matrices are the style; none named: all convolutions."""
    content_weight: Annotated[float, Gt(0)] = 1.0
    """Weight of the content's error, per activation."""
    style_weight: Annotated[float, Gt(0)] = 100.0
    """Weight of the style's error."""
    enlarge: Annotated[float, Ge(1)] = 2.0
    """Factor by which images are enlarged before."""
    steps: Annotated[int, Ge(1)] = 60
    """Iterations of L-BFGS."""


def gram(activations: Tensor) -> Tensor:
    """Return the Gram matrices [B, N, N] of activations [B, N, H, W], equation 3."""
    maps = activations.flatten(2)
    return maps @ maps.transpose(1, 2)


def content_error(activations: Tensor, wanted: Tensor) -> Tensor:
    """Return half the sum of squares of the differences [B], equation 1."""
    return (activations - wanted).square().flatten(1).sum(1) / 2


def style_error(activations: Tensor, wanted: Tensor) -> Tensor:
    """Return equation 4, [B], for activations [B, N, H, W] of any size and Gram matrices [B, N, N] per place.

    `wanted` is divided by the places M of the style's own maps, and so is the Gram matrix here, so that images of
    different sizes have a style in common; with equal sizes it is the paper's.
    """
    maps, places = activations.shape[1], activations[0, 0].numel()
    return (gram(activations) / places - wanted).square().flatten(1).sum(1) / (4 * maps**2)


class StyleTransfer(Evaluation):
    """Gives each content each style, by what a trained classifier of images sees in them, and draws the results.

    `rayloom evaluate RUN evaluate.import=rayloom_supervised.analysis.style_transfer:StyleTransfer`
    """

    Config = StyleTransferConfig
    metrics: ClassVar[Mapping[str, Metric]] = {
        "style_error_before": Metric(meaning="of the contents as they are, mean over all pairs"),
        "style_error_after": Metric(better="min", meaning="of the results"),
        "content_error_of_style": Metric(meaning="of the style images, for comparison"),
        "content_error_after": Metric(better="min", meaning="of the results"),
    }

    def run(self, policy: Algorithm, seed: int, budget: Budget) -> Findings:
        """Return the errors before and after, and a picture: a row for each content, a column for each style."""
        config: StyleTransferConfig = self.config
        network = ImageNetwork(policy, self.context)
        table = getattr(self.context.data, config.split)
        contents, styles = (
            _enlarged(network.images(table, rows, key), config.enlarge)
            for rows, key in ((config.contents, "contents"), (config.styles, "styles"))
        )
        pairs = torch.cartesian_prod(torch.arange(len(contents)), torch.arange(len(styles)))
        content, style = contents[pairs[:, 0]], styles[pairs[:, 1]]
        errors = _Errors(network, config, content, style)
        result = errors.descend(content, config)
        budget.done()
        with torch.no_grad():
            (content_style, _), (content_after, style_after) = errors.of(style), errors.of(result)
            style_before = errors.of(content)[1]
        found = {
            "style_error_before": float(style_before.mean()),
            "style_error_after": float(style_after.mean()),
            "content_error_of_style": float(content_style.mean()),
            "content_error_after": float(content_after.mean()),
        }
        if content.shape[1] not in (1, 3):
            return Findings(found)
        corner = torch.ones_like(styles[:1])
        rows = [torch.cat((contents[[i]], result[pairs[:, 0] == i])) for i in range(len(contents))]
        shown = torch.cat((corner, styles, *rows)).cpu()
        return Findings(found, {"styles": Figure("images", shown, columns=len(styles) + 1)})


class _Errors:
    """Content and style errors of images, for pairs of contents and styles."""

    def __init__(self, network: ImageNetwork, config: StyleTransferConfig, content: Tensor, style: Tensor) -> None:
        self._network = network
        self._content_name = config.content_layer or network.convolutions()[-1]
        self._style_names = config.style_layers or tuple(network.convolutions())
        network.layers([self._content_name], "content_layer")
        network.layers(self._style_names, "style_layers")
        names = dict.fromkeys((*self._style_names, self._content_name))
        self._layers: Mapping[str, nn.Module] = network.layers(list(names), "style_layers")
        with torch.no_grad():
            self._content = network.activations(self._layers, content)[self._content_name]
            seen = network.activations(self._layers, style)
            self._styles = {name: gram(seen[name]) / seen[name][0, 0].numel() for name in self._style_names}

    def of(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the content's error per activation [B], and the style's [B]."""
        seen = self._network.activations(self._layers, images)
        content = content_error(seen[self._content_name], self._content) / self._content[0].numel()
        style = torch.stack([style_error(seen[name], self._styles[name]) for name in self._style_names]).mean(0)
        return content, style

    def descend(self, start: Tensor, config: StyleTransferConfig) -> Tensor:
        """Return the images at which L-BFGS ends, begun at `start` and kept in 0..1."""
        images = start.clone().requires_grad_()
        optimizer = torch.optim.LBFGS([images], max_iter=config.steps, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            content, style = self.of(images.clamp(0, 1))
            # Outside of 0..1 the errors have no slope; this one leads back.
            outside = (images - images.clamp(0, 1)).square().sum()
            loss = (config.content_weight * content + config.style_weight * style).sum() + outside
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        with torch.enable_grad():
            optimizer.step(closure)  # type: ignore[no-untyped-call]
        return images.detach().clamp(0, 1)


def _enlarged(images: Tensor, factor: float) -> Tensor:
    return F.interpolate(images, [round(factor * side) for side in images.shape[2:]], mode="bilinear")
