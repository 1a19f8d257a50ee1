"""Linear-chain conditional random field: Lafferty, McCallum and Pereira (2001)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Figure, Loss, Metric, Phase, Spec, UserError
from rayloom_generative.equations.linear_chain import inside, log_partition, sequence_score, viterbi

_SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class LinearChainCRFConfig(AlgorithmConfig):
    """Settings of the linear-chain conditional random field."""

    window: Annotated[int, Ge(0)] = 0
    """Words to the left and to the right of a place whose indicators are features of its label, beside its own."""
    transitions: bool = True
    """Whether neighbouring labels interact; without, it is a softmax for each position on the same features."""


class LinearChainCRF(Algorithm):
    """Labels each token of a sequence; log-linear in indicators of (word, label) and (label, next label).

    The loss is -log p(labels | tokens), exact by the forward recursion, per token; evaluations decode by Viterbi's
    algorithm. Departures: any of torch's optimisers instead of iterative scaling; initial and final labels have
    weights too.
    """

    Config = LinearChainCRFConfig
    sources = frozenset({"dataset"})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "loss": Metric(better="min", unit="nats", meaning="-log p(labels|tokens) per token"),
        "accuracy": Metric(better="max", meaning="share of the tokens with the right label"),
        "error": Metric(better="min", meaning="1 - accuracy"),
        "exact": Metric(better="max", meaning="share of the sequences without any wrong label"),
    }

    def __init__(self, config: LinearChainCRFConfig, spec: Spec) -> None:
        """Make weights for the ragged fields `token` and `tag` [L]; UserError where the data set has none."""
        super().__init__(config, spec)
        for name in ("token", "tag"):
            if name not in spec or not spec[name].ragged or not isinstance(spec[name].num_values, int):
                raise UserError(
                    f"source.dataset: a chain of labels needs the sequences token and tag of categories, as of "
                    f"tagged-grammar; {name} is missing among {sorted(spec)}"
                )
        self.num_words, self.num_labels = spec["token"].categories, spec["tag"].categories
        places = 2 * config.window + 1
        # One row for each word at each place of the window, and one for what lies outside of the sequence.
        self.weight = nn.Parameter(torch.zeros(places, self.num_words + 1, self.num_labels))
        if config.transitions:
            self.transition = nn.Parameter(torch.zeros(self.num_labels, self.num_labels))
            self.ends = nn.Parameter(torch.zeros(2, self.num_labels))
        else:
            self.register_buffer("transition", torch.zeros(self.num_labels, self.num_labels))
            self.register_buffer("ends", torch.zeros(2, self.num_labels))

    def phases(self) -> list[Phase]:
        """Return the one phase; its recursion is as long as the batch's longest sequence, too much to unroll."""
        return [Phase("label", self.loss, tuple(self.parameters()), compilable=False)]

    def emission(self, token: Tensor, length: Tensor) -> Tensor:
        """Return the scores of each place's labels [B, T, K] for tokens [B, T]."""
        steps, window = token.shape[1], self.config.window
        words = token.where(inside(length, steps), self.num_words)
        padded = F.pad(words, (window, window), value=self.num_words)
        score = sum(self.weight[place][padded[:, place : place + steps]] for place in range(2 * window + 1))
        assert isinstance(score, Tensor)
        places = torch.arange(steps, device=token.device)
        first, last = (places == 0)[None, :, None], (places == length[:, None] - 1)[..., None]
        return score + first * self.ends[0] + last * self.ends[1]

    def loss(self, batch: Batch) -> Loss:
        """Return -log p(labels|tokens) [B], which count for as many tokens as there are."""
        length = batch["token_length"]
        return Loss(self._negative_log_likelihood(batch), count=length.float())

    def _negative_log_likelihood(self, batch: Batch) -> Tensor:
        length = batch["token_length"]
        emission = self.emission(batch["token"], length)
        score = sequence_score(emission, self.transition, batch["tag"], length)
        return log_partition(emission, self.transition, length) - score

    def decode(self, token: Tensor, length: Tensor) -> Tensor:
        """Return the most probable labels [B, T] of tokens [B, T]; 0 behind the ends."""
        return viterbi(self.emission(token, length), self.transition, length)[0]

    def evaluate(self, batch: Batch) -> dict[str, Tensor | tuple[Tensor, Tensor]]:
        """Return -log p and accuracy per token and exact matches per sequence, and what `summarize` needs."""
        token, tag, length = batch["token"], batch["tag"], batch["token_length"]
        found, valid = self.decode(token, length), inside(length, token.shape[1])
        right = ((found == tag) & valid).sum(1)
        pair = F.one_hot(tag * self.num_labels + found, self.num_labels**2) * valid[..., None]
        return {
            "loss": (self._negative_log_likelihood(batch), length),
            "accuracy": (right.float(), length),
            "error": ((length - right).float(), length),
            "exact": (right == length).float(),
            "_confusion": pair.sum(1),
        }

    def summarize(self, outputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Figure]]:
        """Return the confusion matrix (rows: labels) over all tokens."""
        confusion = outputs["_confusion"].sum(0).view(self.num_labels, self.num_labels)
        names = self._names("tag")
        return {}, {"confusion_matrix": Figure("matrix", confusion.float(), labels=names, column_labels=names)}

    def figures(self, batch: Batch) -> dict[str, Figure]:
        """Return some labelled sequences and, where there are, the weights of the transitions (rows: from)."""
        found = {"sequences": Figure("text", text=self._shown(batch))}
        if self.config.transitions:
            names = self._names("tag")
            found["transitions"] = Figure("matrix", self.transition.detach(), labels=names, column_labels=names)
        return found

    def _shown(self, batch: Batch) -> str:
        words, tags = self._names("token"), self._names("tag")
        token, length = batch["token"][:_SHOWN], batch["token_length"][:_SHOWN]
        rows = zip(
            token.tolist(), self.decode(token, length).tolist(), batch["tag"].tolist(), length.tolist(), strict=False
        )
        lines = []
        for row, guessed, true, size in rows:
            marks = ("" if g == t else f" (not {tags[t]})" for g, t in zip(guessed[:size], true[:size], strict=True))
            lines.append(" ".join(f"{words[w]}/{tags[g]}{m}" for w, g, m in zip(row, guessed, marks, strict=False)))
        return "\n".join(lines)

    def _names(self, field: str) -> tuple[str, ...]:
        return self.spec[field].labels or tuple(str(value) for value in range(self.spec[field].categories))
