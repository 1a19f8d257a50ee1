"""Connectionist temporal classification (Graves et al. 2006): noisy lines of unequal length to the letters in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Loss, Metric, Phase, Spec, TensorSpec, component
from rayloom.datasets import Dataset, RaggedTable, Subset

BLANK = 0


@dataclass(frozen=True, kw_only=True)
class LinesConfig:
    """Lines of letters; each letter is drawn over two to four frames, with noise."""

    lines: int = 600
    """Lines in all three splits; a tenth of them each is held out."""
    letters: int = 4
    """Letters of the alphabet."""
    noise: float = 0.3
    """Standard deviation of what is added to every number of a frame."""


@component("data set", LinesConfig)
def lines(config: LinesConfig, seed: int) -> Dataset:
    """Return `frames` [L, letters] and `text` [S] (letters from 1 on), both ragged."""
    chance = torch.Generator().manual_seed(seed)
    frames, texts = [], []
    for _ in range(config.lines):
        length = int(torch.randint(1, 6, (), generator=chance))
        text = 1 + torch.randint(config.letters, (length,), generator=chance)
        spans = torch.randint(2, 5, (length,), generator=chance).tolist()
        parts = []
        for letter, span in zip(text, spans, strict=True):  # an empty frame after each, so that equal ones are two
            parts += [F.one_hot(letter - 1, config.letters).float().expand(span, -1), torch.zeros(1, config.letters)]
        line = torch.cat(parts)
        frames.append(line + config.noise * torch.randn(line.shape, generator=chance))
        texts.append(text)
    table = RaggedTable({"frames": _joined(frames), "text": _joined(texts)}, {})
    spec = {
        "frames": TensorSpec(shape=(max(map(len, frames)), config.letters), dtype=torch.float32, ragged=True),
        "text": TensorSpec(
            shape=(max(map(len, texts)),), dtype=torch.int64, num_values=config.letters + 1, ragged=True
        ),
    }
    spec |= {f"{name}_length": TensorSpec(shape=(), dtype=torch.int64) for name in list(spec)}
    held_out = config.lines // 10
    cuts = torch.arange(config.lines).split([config.lines - 2 * held_out, held_out, held_out])
    train, validation, test = (Subset(table, rows) for rows in cuts)
    return Dataset(train, validation, test, spec, "lines")


def _joined(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    return torch.cat(rows), torch.tensor([0, *map(len, rows)]).cumsum(0)


@dataclass(frozen=True, kw_only=True)
class TranscriberConfig(AlgorithmConfig):
    """Settings of the transcriber."""

    units: int = 24
    """Units of the recurrent layer, in each direction."""


class Transcriber(Algorithm):
    """A bidirectional LSTM whose outputs are read by CTC; means are over letters."""

    Config = TranscriberConfig
    sources = frozenset({"dataset"})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "loss": Metric(better="min", unit="nats", meaning="per letter"),
        "exact_match": Metric(better="max", meaning="share of lines that the best path reads without a mistake"),
    }

    def __init__(self, config: TranscriberConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.reader = nn.LSTM(spec["frames"].shape[1], config.units, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * config.units, spec["text"].categories)

    def phases(self) -> list[Phase]:
        return [Phase("transcribe", self.loss, tuple(self.parameters()), compilable=False, autocast=False)]

    def read(self, batch: Batch) -> Tensor:
        """Return log-probabilities [B, L, letters and blank]; what is padding stays out of the states."""
        lengths = batch["frames_length"].cpu()
        packed = nn.utils.rnn.pack_padded_sequence(batch["frames"], lengths, batch_first=True, enforce_sorted=False)
        total = batch["frames"].shape[1]
        states, _ = nn.utils.rnn.pad_packed_sequence(self.reader(packed)[0], batch_first=True, total_length=total)
        return self.head(states).log_softmax(2)

    def negative_log_likelihood(self, batch: Batch) -> Tensor:
        """Return what each line's letters cost [B] (equation 8 of the paper)."""
        return F.ctc_loss(
            self.read(batch).transpose(0, 1),
            batch["text"],
            batch["frames_length"],
            batch["text_length"],
            blank=BLANK,
            reduction="none",
        )

    def loss(self, batch: Batch) -> Loss:
        return Loss(self.negative_log_likelihood(batch), count=batch["text_length"].float())

    def evaluate(self, batch: Batch) -> Mapping[str, Tensor | tuple[Tensor, Tensor]]:
        best = self.read(batch).argmax(2)
        right = []
        rows = zip(best, batch["frames_length"], batch["text"], batch["text_length"], strict=True)
        for path, frames, text, letters in rows:
            read = [letter for letter, _ in groupby(path[:frames].tolist()) if letter != BLANK]
            right.append(read == text[:letters].tolist())
        exact = torch.tensor(right, dtype=torch.float32, device=best.device)
        return {"exact_match": exact, "loss": (self.negative_log_likelihood(batch), batch["text_length"])}
