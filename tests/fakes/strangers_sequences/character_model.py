"""A language model of characters: what comes next in a text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Figure, Loss, Metric, Phase, Spec, UserError


@dataclass(frozen=True, kw_only=True)
class CharacterModelConfig(AlgorithmConfig):
    """Settings of the model."""

    embedding_size: int = 16
    """Numbers that stand for a character."""
    cell_size: int = 48
    """Cells of the LSTM."""
    sample_length: int = 60
    """Characters in a sample."""


class CharacterModel(Algorithm):
    """LSTM over truncated windows (Graves 2013): each begins with an empty memory, gradients end with it."""

    Config = CharacterModelConfig
    sources = frozenset({"dataset"})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "loss": Metric(better="min", unit="nats", meaning="cross-entropy of a character"),
        "bits_per_character": Metric(better="min", unit="bits"),
    }

    def __init__(self, config: CharacterModelConfig, spec: Spec) -> None:
        """Build the model for the fields `token` and `next_token` [L]."""
        super().__init__(config, spec)
        if "next_token" not in spec or not spec["token"].labels:
            raise UserError("source.dataset: a model of characters needs documents with tokens: characters")
        self.labels = spec["token"].labels
        self.embedding = nn.Embedding(spec["token"].categories, config.embedding_size)
        self.memory = nn.LSTM(config.embedding_size, config.cell_size, batch_first=True)
        self.head = nn.Linear(config.cell_size, spec["token"].categories)

    def phases(self) -> list[Phase]:
        """Return the one phase."""
        return [Phase("predict", self.loss, tuple(self.parameters()), compilable=False)]

    def loss(self, batch: Batch) -> Loss:
        """Return the summed cross-entropy [B] of the windows, and how many characters they have."""
        losses = self._cross_entropy(batch).sum(dim=1)
        count = torch.full_like(losses.detach(), batch["token"].shape[1])
        return Loss(losses, {"bits_per_character": losses.detach() / math.log(2)}, count=count)

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """Return the mean cross-entropy [B] of each window; all windows are of one length."""
        losses = self._cross_entropy(batch).mean(dim=1)
        return {"loss": losses, "bits_per_character": losses / math.log(2)}

    def sample(self, count: int, generator: torch.Generator, *, start: str = " ") -> Figure:
        """Write `count` lines, character by character, each after the character `start`."""
        if start not in self.labels:
            raise UserError(f"sample: the training text has no character {start!r}; start with one that it has")
        first = self.labels.index(start)
        token, state, written = torch.full((count, 1), first, device=self.head.weight.device), None, []
        for _ in range(self.config.sample_length):
            features, state = self.memory(self.embedding(token), state)
            token = torch.multinomial(torch.softmax(self.head(features[:, 0]), dim=1), 1, generator=generator)
            written.append(token)
        rows = torch.cat(written, dim=1).tolist()
        return Figure("text", text="\n".join("".join(self.labels[number] for number in row) for row in rows))

    def _cross_entropy(self, batch: Batch) -> Tensor:
        """Return the cross-entropy [B, L] of what comes next."""
        logits = self.head(self.memory(self.embedding(batch["token"]))[0])
        return F.cross_entropy(logits.transpose(1, 2), batch["next_token"], reduction="none")
