"""Conditional GAN: Mirza and Osindero (2014), "Conditional generative adversarial nets"."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rayloom.contract import Batch, Figure, Spec, UserError
from rayloom_generative.adversarial.gan import GAN, GANConfig


class ConditionalGAN(GAN):
    """The GAN in which both networks see the class, so that samples of one class can be asked for.

    The label joins the code as one-hot numbers, and the example as further coordinates, or as further planes of an
    image that are 1 for its class and 0 else. Data and fakes of a batch have the same labels. Departures: the paper's
    networks map code and label by a hidden layer each before they join them, and have maxout in the discriminator.
    """

    Config = GANConfig

    def __init__(self, config: GANConfig, spec: Spec) -> None:
        """Build for a data set whose field `label` has one category; UserError for another one."""
        label = spec.get("label")
        if label is None or not isinstance(label.num_values, int):
            raise UserError(
                f"source.dataset: a conditional GAN needs the field label with its classes, not {sorted(spec)}; "
                "choose another data set, or GAN"
            )
        self.conditions = self.columns = label.num_values
        super().__init__(config, spec)

    def generate(self, generator: nn.Module, code: Tensor, batch: Batch) -> Tensor:
        """Return the examples [B, ...] that a generator makes of codes [B, L] for the labels [B]."""
        fakes: Tensor = generator(torch.cat((code, self._one_hot(batch)), dim=1))
        return fakes

    def score(self, examples: Tensor, batch: Batch) -> Tensor:
        """Return the discriminator's logits [B] of examples [B, ...] under the labels [B]."""
        planes = self._one_hot(batch).reshape(len(examples), -1, *[1] * (examples.ndim - 2))
        planes = planes.expand(-1, -1, *examples.shape[2:])
        scores: Tensor = self.critic(torch.cat((examples, planes), dim=1))
        return scores

    def _one_hot(self, batch: Batch) -> Tensor:
        label = batch["label"]
        # torch's one_hot looks at the largest label, which waits for the device.
        return (label[:, None] == torch.arange(self.conditions, device=label.device)).float()

    def conditions_of(self, rows: Tensor) -> Batch:
        """Return the classes in their order, so that each column of a picture shows one."""
        return {"label": rows % self.conditions}

    def sample(self, count: int, generator: torch.Generator, *, walk: bool = False, label: int | None = None) -> Figure:
        """Draw what the base does, of the class `label`, or of all classes in turn."""
        if label is not None and (
            isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < self.conditions
        ):
            raise UserError(f"sample: label is {label!r}; write a class from 0 to {self.conditions - 1}")
        device = next(self.parameters()).device
        rows = torch.arange(count, device=device) if label is None else torch.full((count,), label, device=device)
        return self.shown_samples(count, generator, self.conditions_of(rows), walk)
