"""Sequence to sequence: words that are read letter by letter and written backwards, by attention."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayloom.contract import (
    Algorithm,
    AlgorithmConfig,
    Batch,
    Figure,
    Loss,
    Metric,
    Phase,
    Spec,
    TensorSpec,
    UserError,
    component,
)
from rayloom.datasets import Dataset, RaggedTable, Subset

PADDING, BEGIN, END = 0, 1, 2
"""Tokens that are no letters."""


# --- data ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ReversalsConfig:
    """Random words, and the same words backwards."""

    words: int = 1500
    """Different words in all three splits; a tenth of them each is held out."""
    letters: int = 5
    """Letters of the alphabet."""
    shortest: int = 1
    """Letters in the shortest words."""
    longest: int = 5
    """Letters in the longest words."""

    def __post_init__(self) -> None:
        """Refuse more words than are easily found."""
        possible = sum(self.letters**length for length in range(self.shortest, self.longest + 1))
        if self.words > possible // 2:
            raise ValueError(f"words: there are {possible} such words; ask for half of them at most")


@component("data set", ReversalsConfig)
def reversals(config: ReversalsConfig, seed: int) -> Dataset:
    """Return `source` [S] and `target` [S + 1] (it ends with END), both int64 and ragged."""
    generator = random.Random(seed)
    alphabet = range(END + 1, END + 1 + config.letters)
    words: dict[tuple[int, ...], None] = {}  # in the order in which they were drawn, each once
    while len(words) < config.words:
        length = generator.randint(config.shortest, config.longest)
        words[tuple(generator.choices(alphabet, k=length))] = None
    fields = {"source": list(words), "target": [(*reversed(word), END) for word in words]}
    table = RaggedTable({name: _joined(rows) for name, rows in fields.items()}, {})
    labels = ("(padding)", "(begin)", "(end)", *(chr(ord("a") + number) for number in range(config.letters)))
    spec = {}
    for name, rows in fields.items():
        longest = max(map(len, rows))
        spec[name] = TensorSpec(shape=(longest,), dtype=torch.int64, num_values=len(labels), labels=labels, ragged=True)
        spec[f"{name}_length"] = TensorSpec(shape=(), dtype=torch.int64)
    held_out = len(words) // 10
    cuts = torch.arange(len(words)).split([len(words) - 2 * held_out, held_out, held_out])
    train, validation, test = (Subset(table, rows) for rows in cuts)
    return Dataset(train, validation, test, spec, "reversals")


def _joined(rows: list[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
    """Return the tokens of all rows, one after the other, and where each row begins."""
    lengths = torch.tensor([0, *map(len, rows)])
    return torch.tensor([token for row in rows for token in row]), lengths.cumsum(0)


# --- model ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TranslatorConfig(AlgorithmConfig):
    """Settings of the translator."""

    embedding_size: int = 16
    """Numbers that stand for a token."""
    cell_size: int = 32
    """Cells of the encoder and of the decoder."""


class Translator(Algorithm):
    """Recurrent encoder and decoder with additive attention (Bahdanau et al. 2015), taught by the true target.

    The decoder's state asks where to look and what it sees is not fed back (Luong et al. 2015, without input feeding),
    so that all steps of a target are one call. Means are over tokens: padding counts for nothing.
    """

    Config = TranslatorConfig
    sources = frozenset({"dataset"})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "loss": Metric(better="min", unit="nats", meaning="cross-entropy of a token"),
        "token_accuracy": Metric(better="max", meaning="share of right tokens after the true ones"),
        "exact_match": Metric(better="max", meaning="share of words that greedy decoding writes without a mistake"),
    }

    def __init__(self, config: TranslatorConfig, spec: Spec) -> None:
        """Build the translator for the ragged fields `source` and `target`."""
        super().__init__(config, spec)
        for name in ("source", "target"):
            if name not in spec or not spec[name].ragged:
                raise UserError(f"source.dataset: a translator needs the ragged fields source and target, not {name}")
        size = config.cell_size
        self.read = nn.Embedding(spec["source"].categories, config.embedding_size)
        self.written = nn.Embedding(spec["target"].categories, config.embedding_size)
        self.encoder = nn.GRU(config.embedding_size, size, batch_first=True)
        self.decoder = nn.GRU(config.embedding_size, size, batch_first=True)
        self.key, self.query = nn.Linear(size, size), nn.Linear(size, size, bias=False)
        self.energy = nn.Linear(size, 1, bias=False)
        self.head = nn.Linear(2 * size, spec["target"].categories)

    def phases(self) -> list[Phase]:
        """Return the one phase."""
        return [Phase("translate", self.loss, tuple(self.parameters()), compilable=False)]

    def loss(self, batch: Batch) -> Loss:
        """Return the cross-entropy [B] summed over each target's tokens, and how many those are."""
        losses, right = self._taught(batch)
        return Loss(losses, {"token_accuracy": right}, count=batch["target_length"].to(losses.dtype))

    def evaluate(self, batch: Batch) -> Mapping[str, Tensor | tuple[Tensor, Tensor]]:
        """Return whether greedy decoding writes each target [B], and sums over tokens with their counts ([B], [B])."""
        losses, right = self._taught(batch)
        target = batch["target"]
        written, _ = self.decode(batch["source"], batch["source_length"], target.shape[1])
        exact = (written == target).all(dim=1).float()
        tokens = batch["target_length"]
        return {"exact_match": exact, "loss": (losses, tokens), "token_accuracy": (right, tokens)}

    def figures(self, batch: Batch) -> dict[str, Figure]:
        """Show where the decoder looks while it writes the longest word of the batch."""
        row = batch["source_length"].argmax()
        source, length = batch["source"][row][None], batch["source_length"][row][None]
        written, looked = self.decode(source, length, int(length) + 1)
        labels = self.spec["target"].labels
        names, read = (tuple(labels[token] for token in tokens[0].tolist()) for tokens in (written, source))
        return {"attention": Figure("matrix", looked[0, :, : len(read)], labels=names, column_labels=read)}

    @torch.no_grad()
    def decode(self, source: Tensor, length: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """Return the likeliest tokens [B, steps], padded after END, and where each looked [B, steps, S]."""
        read, state = self._encode(source, length)
        token = torch.full((len(source), 1), BEGIN, device=source.device)
        ended, written, looked = torch.zeros_like(token, dtype=torch.bool), [], []
        for _ in range(steps):
            logits, weights, state = self._decode(token, state, read)
            token = logits.argmax(dim=2).masked_fill(ended, PADDING)
            ended = ended | (token == END)
            written.append(token)
            looked.append(weights)
        return torch.cat(written, dim=1), torch.cat(looked, dim=1)

    def _taught(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy and the number of right tokens [B], each after the true ones before it."""
        target = batch["target"]
        read, state = self._encode(batch["source"], batch["source_length"])
        logits, _, _ = self._decode(F.pad(target[:, :-1], (1, 0), value=BEGIN), state, read)
        valid = torch.arange(target.shape[1], device=target.device) < batch["target_length"][:, None]
        losses = F.cross_entropy(logits.transpose(1, 2), target, reduction="none") * valid
        right = ((logits.detach().argmax(dim=2) == target) & valid).sum(dim=1)
        return losses.sum(dim=1), right

    def _encode(self, source: Tensor, length: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Return what was read [B, S, size], where it is no padding [B, S], and the state [1, B, size] after it."""
        states, _ = self.encoder(self.read(source))
        inside = torch.arange(source.shape[1], device=source.device) < length[:, None]
        last = states.gather(1, (length - 1)[:, None, None].expand(-1, 1, states.shape[2]))
        return (states, inside), last.transpose(0, 1).contiguous()

    def _decode(self, before: Tensor, state: Tensor, read: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the logits [B, T, V] after the tokens `before` [B, T], where they looked [B, T, S], and the state."""
        states, inside = read
        decoded, state = self.decoder(self.written(before), state)
        asked = self.query(decoded)[:, :, None] + self.key(states)[:, None]
        energy = self.energy(torch.tanh(asked)).squeeze(3)
        weights = torch.softmax(energy.masked_fill(~inside[:, None], -torch.inf), dim=2)
        return self.head(torch.cat((decoded, weights @ states), dim=2)), weights, state
