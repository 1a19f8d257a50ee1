"""Classification of texts of any length, trained by cross-entropy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch.nn.functional as F
from annotated_types import Ge, Lt
from torch import Tensor

from rayloom.contract import (
    Algorithm,
    AlgorithmConfig,
    Batch,
    Component,
    Figure,
    Loss,
    Metric,
    Phase,
    Spec,
    Table,
    UserError,
)
from rayloom_supervised.metrics import classification as metrics
from rayloom_supervised.networks.text import TEXT_NETWORKS, build_text_network

_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class TextClassifierConfig(AlgorithmConfig):
    """Settings of the classifier of texts."""

    network: Annotated[Component, TEXT_NETWORKS] = field(default_factory=TEXT_NETWORKS.component)
    """What maps tokens to the logits of the classes."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.5
    """Probability of dropping a feature before the last layer in training."""
    vector_dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Probability of dropping a number of all word vectors of a text in training (Gal and Ghahramani 2016)."""
    word_dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Probability of dropping a word of a text in training (Iyyer et al. 2015): its vector is zero."""


class TextClassifier(Algorithm):
    """A convolutional (Kim 2014) or recurrent network over word vectors, with dropout before the last layer.

    Departure from Kim: no bound on the norm of the last layer's weights; use weight decay.
    """

    Config = TextClassifierConfig
    sources = frozenset({"dataset"})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "loss": Metric(better="min", unit="nats", meaning="cross-entropy"),
        "accuracy": Metric(better="max"),
        "error": Metric(better="min", meaning="1 - accuracy"),
        "macro_f1_class_mean": Metric(better="max", meaning="mean of the classes' F1"),
        "macro_f1_harmonic": Metric(better="max", meaning="harmonic mean of macro precision and recall"),
    }

    def __init__(self, config: TextClassifierConfig, spec: Spec) -> None:
        """Build for the ragged field `token` and `label`."""
        super().__init__(config, spec)
        if "token" not in spec or not spec["token"].ragged or "label" not in spec:
            raise UserError(
                f"source.dataset: a classifier of texts needs the fields token and label, not {sorted(spec)}; use the "
                "kind text"
            )
        self.num_classes = spec["label"].categories
        self.network = build_text_network(config.network, spec["token"], self.num_classes)

    def initialize(self, data: Table | None) -> None:
        """Count the pairs of words in the training texts, if the network asks for them."""
        if data is not None:
            self.network.count_pairs((batch["token"], batch["token_length"]) for batch in data.batches(_BATCH))

    def phases(self) -> list[Phase]:
        """Return the one phase."""
        return [Phase("classify", self.loss, tuple(self.parameters()), compilable=False)]

    def loss(self, batch: Batch) -> Loss:
        """Return the cross-entropy [B] and the accuracy [B]."""
        vectors = self.network.vectors(batch["token"], batch["token_length"])
        if self.training:
            vectors = self._dropped(vectors, self.config.vector_dropout, (len(vectors), 1, vectors.shape[2]))
            vectors = self._dropped(vectors, self.config.word_dropout, (*vectors.shape[:2], 1))
        features = self.network.read(vectors, batch["token_length"])
        if self.training:
            features = self._dropped(features, self.config.dropout, features.shape)
        logits, label = self.network.head(features), batch["label"]
        hit = metrics.accuracy(logits.detach().argmax(dim=1), label)
        return Loss(F.cross_entropy(logits, label, reduction="none"), {"accuracy": hit})

    def _dropped(self, values: Tensor, share: float, shape: Sequence[int]) -> Tensor:
        """Return the values without a random `share`, of which one of each of `shape` is drawn, scaled to make up."""
        return values * (self.noise.uniform(*shape) >= share) / (1 - share) if share else values

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """Return cross-entropy (nats), accuracy and error of each example [B], and what `summarize` needs."""
        logits, label = self.network(batch["token"], batch["token_length"]), batch["label"]
        prediction = logits.argmax(dim=1)
        hit = metrics.accuracy(prediction, label)
        losses = F.cross_entropy(logits, label, reduction="none")
        return {"loss": losses, "accuracy": hit, "error": 1 - hit, "_prediction": prediction, "_label": label}

    def summarize(self, outputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Figure]]:
        """Return both macro-F1 scores and the confusion matrix (rows: labels)."""
        confusion = metrics.confusion_matrix(outputs["_prediction"], outputs["_label"], self.num_classes)
        scores = {
            "macro_f1_class_mean": metrics.macro_f1_class_mean(confusion),
            "macro_f1_harmonic": metrics.macro_f1_harmonic(confusion),
        }
        names = self.spec["label"].labels or tuple(str(index) for index in range(self.num_classes))
        return scores, {"confusion_matrix": Figure("matrix", confusion.float(), labels=names, column_labels=names)}

    def predictions(self, batch: Batch) -> dict[str, Tensor]:
        """Return the most likely class `label` [B] of texts and its `probability` [B]."""
        return metrics.most_likely(self.network(batch["token"], batch["token_length"]))
