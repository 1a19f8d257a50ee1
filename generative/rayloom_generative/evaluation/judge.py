"""The classifier in whose features samples are compared with data: one that this platform has trained itself."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor, nn

from rayloom.contract import Component, Input, Spec, UserError
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


class Judge(nn.Module):
    """Maps images to the features [B, F] that its classifier's last linear layer reads; nothing trains it.

    Its weights are parameters without gradient and thus part of the state of the algorithm that has it: checkpoints
    keep them, and nothing is read from the classifier's run again.
    """

    weights_hash: Tensor

    def __init__(self, config: JudgeConfig, spec: Spec) -> None:
        """Build the network for the fields `image` and `label`; UserError where there are none."""
        super().__init__()
        if "image" not in spec or "label" not in spec or spec["label"].num_values is None:
            raise UserError(f"algorithm.judge: a judge needs the fields image and label, not {sorted(spec)}; remove it")
        self.config = config
        self.network = build_network(config.network, spec["image"], spec["label"].categories)
        layers = [layer for layer in self.network.modules() if isinstance(layer, nn.Linear)]
        if not layers or layers[-1] is next((layer for layer in self.network.modules() if _has_weights(layer)), None):
            raise UserError(
                "algorithm.judge.network: it needs a hidden layer whose features can be read; use cnn or mlp"
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
                f"inputs.judge: run {given.run_id} has another network than algorithm.judge.network; "
                "write the settings of its algorithm.network there"
            ) from None
        digest = hashlib.sha256()
        for name in sorted(weights):
            digest.update(name.encode())
            digest.update(weights[name].detach().cpu().contiguous().numpy().tobytes())
        self.weights_hash.copy_(torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8))

    @property
    def name(self) -> str:
        """The first eight hexadecimal digits of the weights' SHA-256; UserError where it has no weights yet."""
        digits = bytes(self.weights_hash.tolist()).hex()
        if not digits.strip("0"):
            raise UserError("inputs.judge: the judge has no weights; name the run of the classifier there")
        return digits[:8]

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, C, H, W] in 0..1 to features [B, F]."""
        seen: list[Tensor] = []
        hook = self._last[0].register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
        try:
            self.network.eval()((images - self.config.input_mean) / self.config.input_std)
        finally:
            hook.remove()
        return seen[-1].flatten(1)


def _has_weights(layer: nn.Module) -> bool:
    return any(True for _ in layer.parameters(recurse=False))
