"""The perceptron: Rosenblatt (1958); equations 113 and 114 of Qiu's lecture notes (2015).

Departure from the notes: they update where y w.x < 0, which from w = 0 never happens; here it is y w.x <= 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Figure, Gathered, Metric, Rule, Spec, Table, UserError
from rayloom_supervised.layers.standardization import StandardizeColumns
from rayloom_supervised.metrics import classification as measures


def perceptron_update(weights: Tensor, rows: Tensor, signs: Tensor) -> Tensor:
    """Return what mistakes add to the weights [D]: the sum of y x over rows [B, D] with y w.x <= 0; signs [B] are y.

    Of one row it is the perceptron's update (equation 114). Novikoff (1963): if some unit vector separates the rows
    with margin gamma, and none is longer than R, there are at most R^2 / gamma^2 such updates.
    """
    wrong = (signs * (rows @ weights) <= 0).to(rows.dtype)
    return (wrong * signs) @ rows


@dataclass(frozen=True, kw_only=True)
class PerceptronConfig(AlgorithmConfig):
    """Settings of the perceptron."""

    average: bool = True
    """Decide by the mean of the weights after each update (Freund and Schapire 1999), which jumps less than the last;
    false: by the last ones."""


class Perceptron(Algorithm):
    """A linear classifier of two classes that learns from its mistakes alone.

    With `learner.batch_size: 1` it is the perceptron of the notes, one example after the other; a larger batch adds up
    the mistakes of its rows, over all learners.
    """

    Config = PerceptronConfig
    sources = frozenset({"dataset"})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "mistakes": Metric(better="min", meaning="share of the examples with y w.x <= 0, as they were learnt from"),
        "accuracy": Metric(better="max"),
        "error": Metric(better="min", meaning="1 - accuracy"),
        "macro_f1_class_mean": Metric(better="max", meaning="mean of the classes' F1"),
    }
    weights: Tensor
    total: Tensor
    steps: Tensor

    def __init__(self, config: PerceptronConfig, spec: Spec) -> None:
        """Begin with weights of 0, of which the last one is the bias; the data must have two classes."""
        super().__init__(config, spec)
        if "features" not in spec or "label" not in spec or spec["label"].num_values != 2:
            raise UserError(
                "source.dataset: the perceptron needs the field features and a label of two classes; use "
                "breast-cancer, or csv with such a target"
            )
        columns = spec["features"].shape[0]
        self.standardize = StandardizeColumns(columns)
        self.register_buffer("weights", torch.zeros(columns + 1, dtype=torch.float64))
        self.register_buffer("total", torch.zeros(columns + 1, dtype=torch.float64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def initialize(self, data: Table | None) -> None:
        """Take means and deviations of the columns."""
        assert data is not None
        self.standardize.fit(data, "features")

    def phases(self) -> list[Rule]:
        """Return the one rule."""
        return [Rule("correct", self.gather, self.correct, (self.weights, self.total, self.steps))]

    def prepare(self, trajectory: Batch) -> Batch:
        """Standardise the columns and append a one."""
        rows = self.standardize(trajectory["features"]).double()
        return {**trajectory, "features": torch.cat((rows, rows.new_ones(len(rows), 1)), dim=1)}

    def gather(self, batch: Batch) -> Gathered:
        """Return the sum of the mistakes."""
        rows, signs = batch["features"], 2.0 * batch["label"].double() - 1.0
        wrong = (signs * (rows @ self.weights) <= 0).float()
        return Gathered({"change": perceptron_update(self.weights, rows, signs)}, {"mistakes": wrong})

    def correct(self, sums: dict[str, Tensor], count: float) -> None:
        """Add the mistakes to the weights, and the weights to their sum over all updates."""
        self.weights.add_(sums["change"])
        self.total.add_(self.weights)
        self.steps.add_(1)

    def decision(self) -> Tensor:
        """Return the weights [D + 1] that decide."""
        return self.total / self.steps.clamp(min=1) if self.config.average else self.weights

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """Return accuracy and error of each example [B], and what `summarize` needs."""
        prediction = (batch["features"] @ self.decision() > 0).long()
        hit = measures.accuracy(prediction, batch["label"])
        return {"accuracy": hit, "error": 1 - hit, "_prediction": prediction, "_label": batch["label"]}

    def summarize(self, outputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Figure]]:
        """Return the mean F1 and the confusion matrix."""
        confusion = measures.confusion_matrix(outputs["_prediction"], outputs["_label"], 2)
        names = self.spec["label"].labels or ("0", "1")
        figure = Figure("matrix", confusion.float(), labels=names, column_labels=names)
        return {"macro_f1_class_mean": measures.macro_f1_class_mean(confusion)}, {"confusion_matrix": figure}

    def inference_module(self) -> nn.Module:
        """Return the module from columns [B, D] as they are in the data to scores [B], above 0 for the second class."""
        return Decision(self.standardize, self.decision())

    def inference_input(self) -> str:
        """Return `features`."""
        return "features"


class Decision(nn.Module):
    """The score of a linear classifier."""

    weights: Tensor

    def __init__(self, standardize: nn.Module, weights: Tensor) -> None:
        super().__init__()
        self.standardize = standardize
        self.register_buffer("weights", weights)

    def forward(self, features: Tensor) -> Tensor:
        """Return the scores [B] of rows [B, D]."""
        rows: Tensor = self.standardize(features).double()
        return (rows @ self.weights[:-1] + self.weights[-1]).to(torch.float32)
