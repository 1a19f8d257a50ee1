"""Two small classifiers of a user's own: rows of numbers and categories, and texts by the mean of their words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Loss, Metric, Phase, Spec


@dataclass(frozen=True, kw_only=True)
class SizeConfig(AlgorithmConfig):
    """How wide the layers are."""

    size: int = 16
    """Units of the hidden layer, or numbers in the vector of a word."""


class _Labeller(Algorithm):
    """Descends the cross-entropy of `logits`."""

    Config = SizeConfig
    sources = frozenset({"dataset"})
    metrics: ClassVar = {"accuracy": Metric(better="max")}

    def logits(self, batch: Batch) -> Tensor:
        raise NotImplementedError

    def phases(self) -> list[Phase]:
        return [Phase("label", self.loss, tuple(self.parameters()))]

    def loss(self, batch: Batch) -> Loss:
        return Loss(F.cross_entropy(self.logits(batch), batch["label"], reduction="none"))

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        return {"accuracy": (self.logits(batch).argmax(dim=1) == batch["label"]).float()}


class RowLabeller(_Labeller):
    """An MLP of `features` [B, D] and an embedding of each column of `categories` [B, K]."""

    def __init__(self, config: SizeConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        sizes = spec["categories"].num_values if "categories" in spec else ()
        assert isinstance(sizes, tuple)
        self.embeddings = nn.ModuleList(nn.Embedding(size, 4) for size in sizes)
        width = 4 * len(sizes) + (spec["features"].shape[0] if "features" in spec else 0)
        self.network = nn.Sequential(
            nn.Linear(width, config.size), nn.ReLU(), nn.Linear(config.size, spec["label"].categories)
        )

    def logits(self, batch: Batch) -> Tensor:
        parts = [batch["features"]] if "features" in batch else []
        parts += [embedding(batch["categories"][:, column]) for column, embedding in enumerate(self.embeddings)]
        logits: Tensor = self.network(torch.cat(parts, dim=1))
        return logits


class TextLabeller(_Labeller):
    """The mean of the vectors of a text's words, and a linear layer."""

    def __init__(self, config: SizeConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.embedding = nn.Embedding(spec["token"].categories, config.size)
        self.output = nn.Linear(config.size, spec["label"].categories)

    def logits(self, batch: Batch) -> Tensor:
        inside = torch.arange(batch["token"].shape[1]) < batch["token_length"][:, None]
        total = (self.embedding(batch["token"]) * inside[..., None]).sum(dim=1)
        logits: Tensor = self.output(total / batch["token_length"][:, None])
        return logits
