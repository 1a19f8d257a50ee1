"""An algorithm whose update burns CPU time and whose loss is a known function of two settings."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from search import burn, value
from torch import Tensor

from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Loss, Phase, Spec


@dataclass(frozen=True, kw_only=True)
class BusyConfig(AlgorithmConfig):
    """Settings of the busy algorithm."""

    x: float = 0.0
    """First coordinate."""
    y: float = 0.0
    """Second coordinate."""
    seconds: float = 1.0
    """CPU time of an update."""


class Busy(Algorithm):
    """Burns time."""

    Config = BusyConfig
    sources = frozenset({"dataset"})

    def __init__(self, config: BusyConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def phases(self) -> list[Phase]:
        """Return the one phase."""
        return [Phase("burn", self.loss, (self.weight,))]

    def loss(self, batch: Batch) -> Loss:
        """Burn, and return zeros [B]."""
        burn(self.config.seconds)
        return Loss(self.weight * torch.zeros(len(batch["label"])))

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """Return the value of the two settings for each example [B]."""
        return {"loss": torch.full((len(batch["label"]),), value(self.config.x, self.config.y))}
