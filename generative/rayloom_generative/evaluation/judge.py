"""The classifier in whose features samples are compared with data: one that this platform has trained itself."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor, nn

from rayloom.contract import Component, Input, Spec, TensorSpec, UserError
from rayloom_supervised.networks.kinds import NETWORKS, build_network

_PREFIX = "network."


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """A classifier of images; every setting must be the one of its run."""

    network: Annotated[Component, NETWORKS]
    """Its network."""
    input_mean: float = 0.0
    """Subtracted from the pixels after their scaling to 0..1."""
    input_std: Annotated[float, Gt(0)] = 1.0
    """Divides the pixels after the mean is subtracted."""
    sha256: str | None = None
    """How the hash of its weights must begin, eight digits as in the metrics' names; null: any weights will do."""


class Judge(nn.Module):
    """Maps images to the features [B, F] that its classifier's last linear layer reads; nothing trains it.

    Its weights are parameters without gradient and thus part of the state of the algorithm that has it: checkpoints
    keep them, and nothing is read from the classifier's run again. Of stacked images, whose planes have a label each
    (`stacked_images`), it sees every plane alone.
    """

    weights_hash: Tensor

    def __init__(self, config: JudgeConfig, spec: Spec, key: str = "judge") -> None:
        """Build the network for the fields `image` and `label`; UserError where there are none."""
        super().__init__()
        self.config = config
        self.key = key
        """What the settings and the input are called."""
        self.example, self.classes = _judged(spec, key)
        self.network = build_network(config.network, self.example, self.classes)
        layers = [layer for layer in self.network.modules() if isinstance(layer, nn.Linear)]
        if not layers or layers[-1] is next((layer for layer in self.network.modules() if _has_weights(layer)), None):
            raise UserError(
                f"algorithm.{key}.network: it needs a hidden layer whose features can be read; use cnn or mlp"
            )
        self._last = [layers[-1]]  # in a list, so that the layer is no module of this one, too
        self.requires_grad_(False)
        self.register_buffer("weights_hash", torch.zeros(32, dtype=torch.uint8))

    def take(self, given: Input) -> None:
        """Take the weights of a classifier's run; UserError where they are another network's."""
        weights = {name[len(_PREFIX) :]: value for name, value in given.weights.items() if name.startswith(_PREFIX)}
        try:
            self.network.load_state_dict(weights)
        except RuntimeError:
            raise UserError(
                f"inputs.{self.key}: run {given.run_id} has another network than algorithm.{self.key}.network; "
                "write the settings of its algorithm.network there"
            ) from None
        digest = hashlib.sha256()
        for name in sorted(weights):
            digest.update(name.encode())
            digest.update(weights[name].detach().cpu().contiguous().numpy().tobytes())
        self.weights_hash.copy_(torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8))
        wanted = self.config.sha256
        if wanted is not None and (len(wanted) < 8 or not digest.hexdigest().startswith(wanted.lower())):
            raise UserError(
                f"algorithm.{self.key}.sha256: run {given.run_id} has the weights {self.name} and not {wanted!r}; "
                "name the run of that classifier, or compare numbers of one judge only"
            )

    @property
    def name(self) -> str:
        """The first eight hexadecimal digits of the weights' SHA-256; UserError where it has no weights yet."""
        digits = bytes(self.weights_hash.tolist()).hex()
        if not digits.strip("0"):
            raise UserError(f"inputs.{self.key}: the judge has no weights; name the run of the classifier there")
        return digits[:8]

    @property
    def title(self) -> str:
        """Kind of network and name."""
        return f"{self.config.network.name} {self.name}"

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, C, H, W] in 0..1 to features [B, F], those of all planes of stacked images."""
        return self.look(images)[0]

    def look(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features [B, F] and the likeliest class of each image or plane [B, P] (int64)."""
        seen: list[Tensor] = []
        hook = self._last[0].register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
        planes = images.reshape(-1, *self.example.shape)
        try:
            logits = self.network.eval()((planes - self.config.input_mean) / self.config.input_std)
        finally:
            hook.remove()
        return seen[-1].reshape(len(images), -1), logits.argmax(1).reshape(len(images), -1)


def _judged(spec: Spec, key: str) -> tuple[TensorSpec, int]:
    """Return what a judge sees of the data and in how many classes; UserError where there are none."""
    image, label = spec.get("image"), spec.get("label")
    if image is not None and label is not None:
        if isinstance(label.num_values, int):
            return image, label.num_values
        if label.num_values is not None and label.num_values == image.shape[0] * label.num_values[:1]:
            return TensorSpec(shape=(1, *image.shape[1:]), dtype=image.dtype), label.num_values[0]
    raise UserError(f"algorithm.{key}: a judge needs the fields image and label, not {sorted(spec)}; remove it")


def _has_weights(layer: nn.Module) -> bool:
    return any(True for _ in layer.parameters(recurse=False))
