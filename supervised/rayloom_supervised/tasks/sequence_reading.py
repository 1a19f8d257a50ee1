"""A recurrent network that reads a whole sequence and then answers: by a class or by numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, get_args

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from torch import Tensor, nn

from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Figure, Loss, Metric, Phase, Spec, UserError
from rayloom_supervised.analysis.gradients_through_time import input_gradients
from rayloom_supervised.layers.recurrent import CellName, RecurrentStack

_NEAR = 0.04
_SHOWN = 100
"""Steps back in the picture of gradients."""


@dataclass(frozen=True, kw_only=True)
class SequenceReaderConfig(AlgorithmConfig):
    """Settings of the reader."""

    cell: CellName = "lstm"
    """Recurrent cell."""
    cell_size: Annotated[int, Ge(1)] = 32
    """Units of a layer, in each direction."""
    cell_layers: Annotated[int, Ge(1), Le(1_000)] = 1
    """Layers on top of each other."""
    bidirectional: bool = False
    """Read from both ends."""


class SequenceReader(Algorithm):
    """Recurrent network over a padded `sequence` [L, F] whose last output is mapped to the answer.

    `label`: cross-entropy; `target` [K]: squared error. An answer is solved when its class is right, or when every
    number is less than 0.04 off (Hochreiter and Schmidhuber 1997, section 5.4).
    """

    Config = SequenceReaderConfig
    sources = frozenset({"dataset"})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "loss": Metric(better="min", meaning="cross-entropy in nats, or squared error"),
        "solved": Metric(better="max", meaning="share of right classes, or of numbers less than 0.04 off"),
    }

    def __init__(self, config: SequenceReaderConfig, spec: Spec) -> None:
        """Build for the ragged field `sequence` [L, F], and `label` or `target`."""
        super().__init__(config, spec)
        answers = [name for name in ("label", "target") if name in spec]
        if "sequence" not in spec or not spec["sequence"].ragged or len(spec["sequence"].shape) != 2 or not answers:
            raise UserError(
                "source.dataset: a reader of sequences needs the ragged field sequence [L, F], and label or target, "
                f"not {sorted(spec)}"
            )
        self.classes = answers[0] == "label"
        inputs = spec["sequence"].shape[1]
        self.memory = RecurrentStack(
            config.cell, inputs, config.cell_size, config.cell_layers, bidirectional=config.bidirectional
        )
        outputs = spec["label"].categories if self.classes else spec["target"].shape[0]
        self.head = nn.Linear(self.memory.outputs, outputs)

    def phases(self) -> list[Phase]:
        """Return the one phase."""
        return [Phase("read", self.loss, tuple(self.parameters()), compilable=False)]

    def outputs(self, batch: Batch) -> Tensor:
        """Return logits or numbers [B, K]."""
        found: Tensor = self.head(self.memory.final(self.memory(batch["sequence"], batch["sequence_length"])[1]))
        return found

    def loss(self, batch: Batch) -> Loss:
        """Return the cross-entropy or the squared error [B], and who is solved [B]."""
        outputs = self.outputs(batch)
        if self.classes:
            losses = F.cross_entropy(outputs, batch["label"], reduction="none")
            solved = outputs.detach().argmax(dim=1) == batch["label"]
        else:
            error = outputs - batch["target"]
            losses, solved = error.square().sum(dim=1), (error.detach().abs() < _NEAR).all(dim=1)
        return Loss(losses, {"solved": solved.to(losses.dtype)})

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss of each sequence [B], and who is solved [B]."""
        loss = self.loss(batch)
        return {"loss": loss.per_example, **loss.metrics}

    def figures(self, batch: Batch) -> dict[str, Figure]:
        """Show how long the gradient is that travels back to earlier inputs: of fresh cells of every kind, and of ours.

        Logarithms to the base 10; the last input's gradient has the length 1 (0 in the picture).
        """
        sequence = batch["sequence"][:8, : int(batch["sequence_length"][:8].min())].detach()
        names = get_args(CellName)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            fresh = [RecurrentStack(name, sequence.shape[2], self.config.cell_size).to(sequence) for name in names]
        curves = [input_gradients(stack, sequence) for stack in (*fresh, self.memory)]
        shown = torch.stack(curves)[:, :_SHOWN].cpu()
        ours = f"{self.config.cell}, as trained"
        axes = ("steps back", "log10 of the gradient's length")
        return {"gradients": Figure("curves", shown, (*names, ours), axes=axes)}
