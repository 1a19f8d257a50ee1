"""What layers inside a trained network return for images of any size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rayloom.contract import Algorithm, EvaluationContext, UserError


class _Reached(Exception):  # noqa: N818  (no mistake: what comes after the last layer that is asked for is not needed)
    """All layers have answered."""


def hidden_activations(module: nn.Module, layers: Mapping[str, nn.Module], images: Tensor) -> dict[str, Tensor]:
    """Return the outputs of `layers`, parts of `module`, for images [B, C, H, W], with gradient.

    The forward pass ends at the last of them: behind convolutions, whose maps grow with the image, there may be layers
    that fit one size only.
    """
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(layer: nn.Module, inputs: Any, output: Tensor) -> None:
            found[name] = output
            if len(found) == len(layers):
                raise _Reached

        return hook

    handles = [layer.register_forward_hook(keep(name)) for name, layer in layers.items()]
    try:
        module(images)
    except _Reached:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return found


class ImageNetwork:
    """A trained classifier of images as these analyses need it: layers by name, images in 0..1."""

    def __init__(self, policy: Algorithm, context: EvaluationContext) -> None:
        """UserError for data without images, and for a model without convolutions."""
        module = policy.inference_module()
        data = context.data
        if module is None or data is None or policy.inference_input() != "image":
            raise UserError(
                f"evaluate.import: {type(policy).__name__} is no classifier of images with a module of its own"
            )
        self._module = module
        self._convolutions = {name: part for name, part in policy.named_modules() if isinstance(part, nn.Conv2d)}
        self._named = dict(policy.named_modules())
        if not self._convolutions:
            raise UserError("evaluate.import: the network has no convolution; evaluate a convolutional one")
        self._top = 255.0 if data.spec["image"].dtype == torch.uint8 else 1.0
        self._device = next(policy.parameters()).device

    def layers(self, names: Sequence[str], key: str) -> dict[str, nn.Module]:
        """Return layers by the algorithm's names for them; UserError, which calls the setting `key`, for others."""
        for name in names:
            if name not in self._named:
                raise UserError(
                    f"evaluate.{key}: there is no layer {name!r}; convolutions are {', '.join(self._convolutions)}"
                )
        return {name: self._named[name] for name in names}

    def convolutions(self) -> list[str]:
        """Return the names of all convolutions, in order."""
        return list(self._convolutions)

    def activations(self, layers: Mapping[str, nn.Module], images: Tensor) -> dict[str, Tensor]:
        """Return the layers' outputs for images [B, C, H, W] in 0..1."""
        return hidden_activations(self._module, layers, images * self._top)

    def images(self, table: Any, rows: Sequence[int], key: str) -> Tensor:
        """Return images [B, C, H, W] of a split in 0..1, float32; UserError for rows that it has not."""
        if max(rows) >= len(table):
            raise UserError(f"evaluate.{key}: there are {len(table)} examples, counted from 0, and no {max(rows)}")
        images: Tensor = table.rows(torch.tensor(list(rows)))["image"].to(self._device, torch.float32)
        return images / self._top
