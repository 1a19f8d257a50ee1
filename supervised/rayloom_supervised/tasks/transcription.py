"""Frames to labels in the same order, without knowing where each label is: connectionist temporal classification."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch.nn.functional as F
from annotated_types import Ge, Le, Lt
from torch import Tensor, nn

from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Figure, Loss, Metric, Phase, Spec, UserError
from rayloom_supervised.layers.ctc import BLANK, beam_labels, fewest_frames, greedy_labels
from rayloom_supervised.layers.recurrent import CellName, RecurrentStack
from rayloom_supervised.metrics import sequences as metrics


@dataclass(frozen=True, kw_only=True)
class TranscriberConfig(AlgorithmConfig):
    """Settings of the transcriber."""

    cell: CellName = "lstm"
    """Recurrent cell."""
    cell_size: Annotated[int, Ge(1)] = 64
    """Units of each layer in each direction."""
    cell_layers: Annotated[int, Ge(1), Le(1_000)] = 1
    """Recurrent layers on top of each other."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Probability of dropping a unit of the top layer in training, for a whole sequence (Gal and Ghahramani 2016)."""
    beam_width: Annotated[int, Ge(0)] = 0
    """Prefixes that evaluations follow; 0: the likeliest path alone, which is fast."""


class Transcriber(Algorithm):
    """A bidirectional recurrent network whose outputs CTC reads (Graves et al. 2006).

    The loss is the negative logarithm of the sum over all paths that read as the true labels. Means are over labels.
    Departure: any cell of `rayloom_supervised.layers.recurrent`, not the paper's LSTM with peepholes alone.
    """

    Config = TranscriberConfig
    sources = frozenset({"dataset"})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "loss": Metric(better="min", unit="nats", meaning="negative log-likelihood for each label"),
        "label_error": Metric(better="min", meaning="edit distance over the number of labels"),
        "exact_match": Metric(better="max", meaning="share of sequences that are read without a mistake"),
        "impossible": Metric(better="min", meaning="share of sequences with more labels than their frames can write"),
    }

    def __init__(self, config: TranscriberConfig, spec: Spec) -> None:
        """Build for the ragged fields `frames` [L, F] and `text` [S], whose number 0 stands for the blank."""
        super().__init__(config, spec)
        for name, rank in (("frames", 2), ("text", 1)):
            if name not in spec or not spec[name].ragged or len(spec[name].shape) != rank:
                raise UserError(
                    f"source.dataset: a transcriber needs the ragged fields frames [L, F] and text [S], not {name} of "
                    f"{sorted(spec)}"
                )
        self.reader = RecurrentStack(
            config.cell, spec["frames"].shape[1], config.cell_size, config.cell_layers, bidirectional=True
        )
        self.head = nn.Linear(self.reader.outputs, spec["text"].categories)

    def phases(self) -> list[Phase]:
        """Return the one phase, in float32: CTC adds up many small probabilities."""
        return [Phase("transcribe", self.loss, tuple(self.parameters()), compilable=False, autocast=False)]

    def log_probabilities(self, batch: Batch) -> Tensor:
        """Return those of each label and the blank in every frame, [B, L, V]."""
        states, _ = self.reader(batch["frames"], batch["frames_length"])
        if self.training and self.config.dropout:
            # One choice for a whole sequence: it depends on no padding.
            kept = self.noise.uniform(len(states), states.shape[2]) >= self.config.dropout
            states = states * kept[:, None] / (1 - self.config.dropout)
        return F.log_softmax(self.head(states), dim=2)

    def loss(self, batch: Batch) -> Loss:
        """Return the negative log-likelihood [B] of the labels, and how many those are."""
        losses = _negative_log_likelihood(self.log_probabilities(batch), batch)
        return Loss(losses, count=batch["text_length"].to(losses.dtype))

    def evaluate(self, batch: Batch) -> Mapping[str, Tensor | tuple[Tensor, Tensor]]:
        """Return exact matches [B], and likelihood and edit distance with the number of labels ([B], [B])."""
        found = self.log_probabilities(batch)
        read, true = self.read(found, batch["frames_length"]), metrics.rows_of(batch["text"], batch["text_length"])
        count = batch["text_length"]
        return {
            "loss": (_negative_log_likelihood(found, batch), count),
            "label_error": (metrics.edit_distances(read, true).to(found.device), count),
            "exact_match": metrics.exact_matches(read, true).to(found.device),
            "impossible": (fewest_frames(batch["text"], count) > batch["frames_length"]).float(),
        }

    def read(self, log_probabilities: Tensor, lengths: Tensor) -> list[list[int]]:
        """Return the labels that outputs [B, L, V] of true `lengths` [B] are read as."""
        outputs, width = log_probabilities.cpu(), self.config.beam_width
        return [
            beam_labels(row, length, width) if width else greedy_labels(row, length)
            for row, length in zip(outputs, lengths.tolist(), strict=True)
        ]

    def figures(self, batch: Batch) -> dict[str, Figure]:
        """Show what the network says in every frame of the first sequence."""
        length = int(batch["frames_length"][0])
        found = self.log_probabilities({name: value[:1] for name, value in batch.items()})[0, :length].exp()
        return {"outputs": Figure("matrix", found.T, labels=self.spec["text"].labels)}


def _negative_log_likelihood(log_probabilities: Tensor, batch: Batch) -> Tensor:
    """Return equation 8 of the paper for each sequence [B]; what no path can read costs nothing, as it teaches none."""
    lengths = batch["frames_length"], batch["text_length"]
    outputs = log_probabilities.transpose(0, 1)
    return F.ctc_loss(outputs, batch["text"], *lengths, blank=BLANK, reduction="none", zero_infinity=True)
