"""Questions about a list of facts: an end-to-end memory network, or an LSTM to compare with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from torch import Tensor, nn

from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Figure, Loss, Metric, Phase, Spec, UserError
from rayloom_supervised.layers.attention import attend
from rayloom_supervised.layers.padding import inside
from rayloom_supervised.layers.recurrent import RecurrentStack
from rayloom_supervised.metrics import classification as metrics


@dataclass(frozen=True, kw_only=True)
class AnswererConfig(AlgorithmConfig):
    """Settings of the answerer."""

    memory: Literal["facts", "lstm"] = "facts"
    """facts: a memory network with a place for each fact; lstm: an LSTM that reads question and facts word by word."""
    size: Annotated[int, Ge(1)] = 32
    """Numbers that stand for a word, a fact and the question; units of the LSTM."""
    hops: Annotated[int, Ge(1), Le(1_000)] = 3
    """Times that the memory is looked at."""


class MemoryNetwork(nn.Module):
    """End-to-end memory network (Sukhbaatar et al. 2015, sections 2 and 4.1), its layers tied as neighbours.

    Facts and the question are sums of word vectors weighed by their place in the sentence (position encoding); facts
    get a vector for their age besides (temporal encoding), the newest is 0.
    """

    def __init__(self, words: int, longest: int, size: int, hops: int) -> None:
        """Build for at most `longest` facts."""
        super().__init__()
        # Table k is C of hop k and A of hop k + 1; table 0 is also B, that of the question.
        self.words = nn.ModuleList(nn.Embedding(words, size) for _ in range(hops + 1))
        self.ages = nn.ModuleList(nn.Embedding(longest, size) for _ in range(hops + 1))
        for table in (*self.words, *self.ages):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, facts: Tensor, lengths: Tensor, question: Tensor) -> tuple[Tensor, Tensor]:
        """Map facts [B, L, W] and the question [B, Q] to features [B, size] and where each hop looked [B, hops, L]."""
        real = inside(lengths, facts.shape[1])
        age = (lengths[:, None] - 1 - torch.arange(facts.shape[1], device=facts.device)).clamp(min=0)
        told = [encode(words(facts)) + ages(age) for words, ages in zip(self.words, self.ages, strict=True)]
        state = encode(self.words[0](question))
        looked = []
        for keys, values in pairwise(told):
            scores = state[:, None] @ keys.transpose(1, 2)
            seen, weights = attend(scores, values, real)
            state = state + seen.squeeze(1)
            looked.append(weights)
        return state, torch.cat(looked, dim=1)


def encode(vectors: Tensor) -> Tensor:
    """Return the sum of word vectors [..., W, d] weighed by (1 - j/W) - (k/d) (1 - 2 j/W), j and k from 1 (4.1)."""
    count, size = vectors.shape[-2:]
    place = torch.arange(1, count + 1, device=vectors.device, dtype=vectors.dtype)[:, None] / count
    number = torch.arange(1, size + 1, device=vectors.device, dtype=vectors.dtype) / size
    weights = (1 - place) - number * (1 - 2 * place)
    return (vectors * weights).sum(dim=-2)


class Answerer(Algorithm):
    """Answers questions about facts by one word.

    Departures of the memory network: the last map is not tied to the last table, since answers are classes of their
    own; no linear start, no random noise among the facts.
    """

    Config = AnswererConfig
    sources = frozenset({"dataset"})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "loss": Metric(better="min", unit="nats", meaning="cross-entropy"),
        "accuracy": Metric(better="max"),
    }

    def __init__(self, config: AnswererConfig, spec: Spec) -> None:
        """Build for the ragged field `fact` [L, W], `question` [Q] and `label`."""
        super().__init__(config, spec)
        missing = [name for name in ("fact", "question", "label") if name not in spec]
        if missing or not spec["fact"].ragged:
            raise UserError(
                f"source.dataset: an answerer needs the ragged field fact, question and label, not {sorted(spec)}"
            )
        words, size = spec["fact"].categories, config.size
        self.network: MemoryNetwork | None = None
        if config.memory == "facts":
            self.network = MemoryNetwork(words, spec["fact"].shape[0], size, config.hops)
        else:
            self.embedding = nn.Embedding(words, size)
            self.reader = RecurrentStack("lstm", size, size)
        self.head = nn.Linear(size, spec["label"].categories)

    def phases(self) -> list[Phase]:
        """Return the one phase."""
        return [Phase("answer", self.loss, tuple(self.parameters()), compilable=False)]

    def logits(self, batch: Batch) -> Tensor:
        """Return those of the answers [B, K]."""
        facts, lengths, question = batch["fact"], batch["fact_length"], batch["question"]
        if self.network is not None:
            features, _ = self.network(facts, lengths, question)
        else:
            words = torch.cat((question, facts.flatten(1)), dim=1)
            count = question.shape[1] + lengths * facts.shape[2]
            features = self.reader.final(self.reader(self.embedding(words), count)[1])
        found: Tensor = self.head(features)
        return found

    def loss(self, batch: Batch) -> Loss:
        """Return the cross-entropy [B] and the accuracy [B]."""
        logits, label = self.logits(batch), batch["label"]
        hit = metrics.accuracy(logits.detach().argmax(dim=1), label)
        return Loss(F.cross_entropy(logits, label, reduction="none"), {"accuracy": hit})

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """Return cross-entropy (nats) and accuracy of each question [B]."""
        loss = self.loss(batch)
        return {"loss": loss.per_example, **loss.metrics}

    def figures(self, batch: Batch) -> dict[str, Figure]:
        """Show which facts each hop looks at for the first question."""
        words = self.spec["fact"].labels
        if self.network is None or not words:
            return {}
        length = int(batch["fact_length"][0])
        _, looked = self.network(batch["fact"][:1, :length], batch["fact_length"][:1], batch["question"][:1])
        facts = tuple(" ".join(words[word] for word in fact) for fact in batch["fact"][0, :length].tolist())
        hops = tuple(f"hop {number + 1}" for number in range(looked.shape[1]))
        return {"attention": Figure("matrix", looked[0].T, labels=facts, column_labels=hops)}
