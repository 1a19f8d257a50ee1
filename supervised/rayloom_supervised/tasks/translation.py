"""Sequence to sequence: one is read, another is written, with attention or through one vector alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Figure, Loss, Metric, Phase, Spec, UserError
from rayloom_supervised.data.symbols import BEGIN, END, PADDING
from rayloom_supervised.layers.attention import ScoreName, attend, make_score
from rayloom_supervised.layers.beam_search import beam_search
from rayloom_supervised.layers.cells import State
from rayloom_supervised.layers.padding import inside
from rayloom_supervised.layers.recurrent import CellName, RecurrentStack
from rayloom_supervised.metrics import sequences as metrics


@dataclass(frozen=True, kw_only=True)
class TranslatorConfig(AlgorithmConfig):
    """Settings of the translator."""

    attention: ScoreName | Literal["none"] = "additive"
    """How the decoder's state is compared with what was read; none: it has the encoder's last state alone."""
    cell: CellName = "gru"
    """Recurrent cell of the encoder, in both directions, and of the decoder."""
    embedding_size: Annotated[int, Ge(1)] = 32
    """Numbers that stand for a token."""
    cell_size: Annotated[int, Ge(2)] = 64
    """Units of the decoder; of the encoder half of them in each direction."""
    beam_width: Annotated[int, Ge(1)] = 1
    """Sequences that evaluations follow; 1: greedy decoding."""
    bleu: Literal["13a", "zh", "char"] | None = None
    """Report the BLEU score of what evaluations write, cut into words as sacrebleu does for languages with blanks, for
    Chinese, or into characters; needs the extra `text`."""

    def __post_init__(self) -> None:
        """Refuse sizes that have no half."""
        if self.cell_size % 2:
            raise ValueError("cell_size: make it even, for the encoder has half of it in each direction")


class Read(NamedTuple):
    """What the encoder hands to the decoder, for B sequences."""

    states: Tensor
    """[B, S, size]."""
    valid: Tensor
    """Where they are no padding, [B, S]."""
    summary: Tensor
    """The last states of both directions, [B, size]."""


class Translator(Algorithm):
    """Recurrent encoder and decoder (Sutskever et al. 2014) with attention (Bahdanau et al. 2015).

    Taught by the true target (teacher forcing). Departures: the decoder's state after a token asks where to look, and
    what it sees goes to the output and is not fed back (Luong et al. 2015, without input feeding), so that all steps of
    a target are one call. Without attention the encoder's summary stands in the place of what is seen. Means are over
    tokens.
    """

    Config = TranslatorConfig
    sources = frozenset({"dataset"})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "loss": Metric(better="min", unit="nats", meaning="cross-entropy of a token"),
        "token_accuracy": Metric(better="max", meaning="share of right tokens after the true ones"),
        "exact_match": Metric(better="max", meaning="share of targets that are written without a mistake"),
        "token_error": Metric(better="min", meaning="edit distance of what is written over the number of tokens"),
        "bleu": Metric(better="max", meaning="BLEU of the whole split, 0 to 100"),
    }

    def __init__(self, config: TranslatorConfig, spec: Spec) -> None:
        """Build for the ragged fields `source` and `target`, which ends with END."""
        super().__init__(config, spec)
        for name in ("source", "target"):
            if name not in spec or not spec[name].ragged or len(spec[name].shape) != 1:
                raise UserError(
                    f"source.dataset: a translator needs the ragged fields source and target, not {name} of "
                    f"{sorted(spec)}"
                )
        size = config.cell_size
        self.read = nn.Embedding(spec["source"].categories, config.embedding_size)
        self.written = nn.Embedding(spec["target"].categories, config.embedding_size)
        self.encoder = RecurrentStack(config.cell, config.embedding_size, size // 2, bidirectional=True)
        self.decoder = RecurrentStack(config.cell, config.embedding_size, size)
        self.bridge = nn.Linear(size, size)
        self.score = None if config.attention == "none" else make_score(config.attention, size, size, size)
        self.head = nn.Linear(2 * size, spec["target"].categories)

    def phases(self) -> list[Phase]:
        """Return the one phase."""
        return [Phase("translate", self.loss, tuple(self.parameters()), compilable=False)]

    def loss(self, batch: Batch) -> Loss:
        """Return the cross-entropy [B] summed over each target's tokens, and how many those are."""
        losses, right = self._taught(batch)
        return Loss(losses, {"token_accuracy": right}, count=batch["target_length"].to(losses.dtype))

    def evaluate(self, batch: Batch) -> Mapping[str, Tensor | tuple[Tensor, Tensor]]:
        """Return exact matches [B] of what is written, and sums over tokens with their number ([B], [B])."""
        losses, right = self._taught(batch)
        target, count = batch["target"], batch["target_length"]
        written = self.decode(batch["source"], batch["source_length"], target.shape[1])
        ours, true = (metrics.rows_of(tokens, _lengths(tokens)) for tokens in (written, target))
        return {
            "loss": (losses, count),
            "token_accuracy": (right, count),
            "token_error": (metrics.edit_distances(ours, true).to(losses.device), count),
            "exact_match": (exact := metrics.exact_matches(ours, true).to(losses.device)),
            "_exact_match": exact,
            "_source_length": batch["source_length"],
            "_written": self._widened(written),
            "_target": self._widened(target),
        }

    def summarize(self, outputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Figure]]:
        """Return BLEU, where it is asked for, and how exact matches fall with the length of the source."""
        exact = outputs["_exact_match"]
        curve = metrics.by_length(exact, torch.ones_like(exact), outputs["_source_length"], "exact match")
        if self.config.bleu is None:
            return {}, {"exact_match_by_length": curve}
        written, true = (self._texts(outputs[name]) for name in ("_written", "_target"))
        score = torch.tensor(metrics.bleu(written, true, self.config.bleu))
        return {"bleu": score}, {"exact_match_by_length": curve}

    def _widened(self, tokens: Tensor) -> Tensor:
        """Return tokens [B, T] padded to the longest target that there is."""
        return F.pad(tokens, (0, max(0, self.spec["target"].shape[0] - tokens.shape[1])), value=PADDING)

    def _texts(self, tokens: Tensor) -> list[str]:
        """Return what tokens [B, T] say, without END."""
        labels, lengths = self.spec["target"].labels, _lengths(tokens).tolist()
        rows = (row[:length] for row, length in zip(tokens.tolist(), lengths, strict=True))
        return ["".join(labels[token] for token in row if token != END) for row in rows]

    def figures(self, batch: Batch) -> dict[str, Figure]:
        """Show where the decoder looks while it writes for the longest source of the batch."""
        if self.score is None:
            return {}
        row = batch["source_length"].argmax()
        source, length = batch["source"][row][None], batch["source_length"][row][None]
        written = self.decode(source, length, self.spec["target"].shape[0])
        written = written[:, : int(_lengths(written))]
        found = self.encode(source, length)
        _, looked, _ = self._decode(_shifted(written), self._begin(found), found)
        rows = tuple(self.spec["target"].labels[token] for token in written[0].tolist())
        columns = tuple(self.spec["source"].labels[token] for token in source[0, : int(length)].tolist())
        return {"attention": Figure("matrix", looked[0, :, : len(columns)], labels=rows, column_labels=columns)}

    @torch.no_grad()
    def decode(self, source: Tensor, length: Tensor, steps: int) -> Tensor:
        """Return the likeliest tokens [B, steps] that the beam finds, padded after END."""

        def step(token: Tensor, state: tuple[list[State], Read]) -> tuple[Tensor, tuple[list[State], Read]]:
            logits, _, after = self._decode(token[:, None], state[0], state[1])
            return F.log_softmax(logits[:, 0], dim=1), (after, state[1])

        found = self.encode(source, length)
        begin = torch.full((len(source),), BEGIN, device=source.device)
        width = min(self.config.beam_width, self.spec["target"].categories)
        written, _ = beam_search(
            step, _pick, (self._begin(found), found), begin, steps, width, end=END, padding=PADDING
        )
        return written

    def encode(self, source: Tensor, length: Tensor) -> Read:
        """Read sources [B, S] of true lengths [B]."""
        states, ended = self.encoder(self.read(source), length)
        return Read(states, inside(length, source.shape[1]), self.encoder.final(ended))

    def _begin(self, found: Read) -> list[State]:
        """Return the decoder's state before the first token: made of the summary, further memory is empty."""
        return self.decoder.begin_from(torch.tanh(self.bridge(found.summary)))

    def _decode(self, before: Tensor, states: list[State], found: Read) -> tuple[Tensor, Tensor, list[State]]:
        """Return the logits [B, T, V] after the tokens `before` [B, T], where they looked [B, T, S], and the states."""
        decoded, after = self.decoder(self.written(before), None, states)
        if self.score is None:
            seen = found.summary[:, None].expand(-1, decoded.shape[1], -1)
            looked = decoded.new_zeros(*decoded.shape[:2], found.states.shape[1])
        else:
            seen, looked = attend(self.score(decoded, found.states), found.states, found.valid)
        return self.head(torch.cat((decoded, seen), dim=2)), looked, after

    def _taught(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy and the number of right tokens [B], each after the true ones before it."""
        target = batch["target"]
        found = self.encode(batch["source"], batch["source_length"])
        logits, _, _ = self._decode(_shifted(target), self._begin(found), found)
        valid = inside(batch["target_length"], target.shape[1])
        each = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")  # faster than over [B, V, T]
        losses = each.view(target.shape) * valid
        right = ((logits.detach().argmax(dim=2) == target) & valid).sum(dim=1)
        return losses.sum(dim=1), right


def _shifted(target: Tensor) -> Tensor:
    """Return what stands before each token of targets [B, T]."""
    return F.pad(target[:, :-1], (1, 0), value=BEGIN)


def _lengths(written: Tensor) -> Tensor:
    """Return how many tokens [B] of [B, T] come before and with the first END."""
    ended = (written == END).cumsum(dim=1) - (written == END).long()
    return (ended == 0).sum(dim=1)


def _pick(state: tuple[list[State], Read], rows: Tensor) -> tuple[list[State], Read]:
    """Return the decoder's state of some sequences."""
    states, found = state
    return [tuple(part[rows] for part in layer) for layer in states], Read(*(part[rows] for part in found))
