"""Classification of images and of tables, trained by cross-entropy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

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
from rayloom_supervised.evaluation.mistakes import picture, worst_mistakes
from rayloom_supervised.layers.batch_norm import couples_examples, share_statistics
from rayloom_supervised.layers.mix_up import SymmetricBeta, mix
from rayloom_supervised.layers.standardization import StandardizeColumns
from rayloom_supervised.metrics import classification as metrics
from rayloom_supervised.networks.kinds import NETWORKS, build_network

_CHUNK = 8192


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(AlgorithmConfig):
    """Settings of the classifier."""

    network: Annotated[Component, NETWORKS] = field(default_factory=NETWORKS.component)
    """What maps an image to the logits of the classes."""
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of the target's mass that is spread evenly over all classes."""
    class_weights: tuple[Annotated[float, Gt(0)], ...] | Literal["balanced"] | None = None
    """What an example of each class counts in the loss, which is divided by the sum of those weights; balanced:
    examples / (classes * examples of the class), of the training data. Evaluations count each example once."""
    mix_up: Annotated[float, Ge(0)] = 0.0
    """Trains on mixtures of two examples and of their labels, in shares from Beta(mix_up, mix_up); 0: never. Partners
    are of the same learner's part of the batch, so that several learners mix others than one would."""
    l1: Annotated[float, Ge(0)] = 0.0
    """Adds l1 times the sum of the weights' absolute values to the loss; biases are free."""
    l2: Annotated[float, Ge(0)] = 0.0
    """Adds l2 / 2 times the sum of the weights' squares to the loss; biases are free."""
    penalty_start: Annotated[int, Ge(0)] = 0
    """Completed epochs before l1 and l2 set in (unit: epochs)."""
    input_mean: float = 0.0
    """Subtracted from the pixels after their scaling to 0..1."""
    input_std: Annotated[float, Gt(0)] = 1.0
    """Divides the pixels after the mean is subtracted."""


class Standardize(nn.Module):
    """Map raw images to the network's input: (pixel / scale - mean) / deviation, float32."""

    def __init__(self, scale: float, mean: float, deviation: float) -> None:
        super().__init__()
        self.deviation = deviation
        self.factor = 1 / (scale * deviation)
        self.offset = -mean / deviation

    def forward(self, images: Tensor) -> Tensor:
        """Return float32 images of the same shape."""
        scaled = images.to(torch.float32) * self.factor
        return scaled + self.offset if self.offset else scaled

    def undo(self, images: Tensor) -> Tensor:
        """Return standardised images as they were, in 0..1 where they were pixels."""
        return (images - self.offset) * self.deviation


class Classifier(Algorithm):
    """A network of any kind, from softmax regression to convolutional and recurrent ones, minimises the cross-entropy.

    References: LeCun et al. (1998) for LeNet-5, whose departures `LeNet5` lists; Srivastava et al. (2014) for dropout;
    Szegedy et al. (2016) for label smoothing; Zhang et al. (2018) for mix-up. The penalties l1 and l2 are part of the
    loss, unlike adamw's decoupled weight decay. Evaluation reports the plain cross-entropy, without smoothing, class
    weights and penalties.
    With class weights the accuracy in training is weighted like the loss.
    """

    class_weights: Tensor | None

    Config = ClassifierConfig
    sources = frozenset({"dataset"})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "loss": Metric(better="min", unit="nats", meaning="cross-entropy; with the penalties in training"),
        "accuracy": Metric(better="max"),
        "error": Metric(better="min", meaning="1 - accuracy"),
        "penalty": Metric(meaning="weight penalties"),
        "macro_precision": Metric(better="max"),
        "macro_recall": Metric(better="max"),
        "macro_f1_class_mean": Metric(better="max", meaning="mean of the classes' F1"),
        "macro_f1_harmonic": Metric(better="max", meaning="harmonic mean of macro precision and recall"),
        "micro_f1": Metric(better="max"),
        "calibration_error": Metric(better="min", meaning="expected gap of confidence and accuracy, 15 bins"),
    }
    population_fields = frozenset({"l1", "l2", "label_smoothing"})
    population_requires: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        # torch's recurrent layers cannot be vectorised, and of a network of one's own nobody knows.
        "network.kind": ("softmax_regression", "mlp", "lenet5", "cnn"),
        "network.dropout": (0,),
        "penalty_start": (0,),
        "class_weights": (None,),
        "mix_up": (0,),
    }

    def __init__(self, config: ClassifierConfig, spec: Spec) -> None:
        """Build the network for `image` ([C, H, W], or what it takes), else the columns `features` [D], and `label`."""
        super().__init__(config, spec)
        self.field = "image" if "image" in spec else "features"
        if self.field not in spec or "label" not in spec or spec["label"].num_values is None:
            raise UserError(
                f"source.dataset: a classifier needs the fields image or features, and label, not {sorted(spec)}"
            )
        self.num_classes = spec["label"].categories
        if self.field == "features" and (config.input_mean, config.input_std) != (0.0, 1.0):
            raise UserError(
                "algorithm.input_mean: columns of a table are standardised by themselves; leave input_mean and "
                "input_std out"
            )
        scale = 255.0 if spec[self.field].dtype == torch.uint8 else 1.0
        self.standardize = (
            Standardize(scale, config.input_mean, config.input_std)
            if self.field == "image"
            else StandardizeColumns(math.prod(spec["features"].shape))
        )
        self.network = build_network(config.network, spec[self.field], self.num_classes)
        weights = None if config.class_weights is None else self._given_weights(config.class_weights)
        self.register_buffer("class_weights", weights)
        self._shares = SymmetricBeta(config.mix_up) if config.mix_up else None

    def _given_weights(self, weights: tuple[float, ...] | str) -> Tensor:
        if isinstance(weights, str):
            return torch.ones(self.num_classes)
        if len(weights) != self.num_classes:
            raise UserError(
                f"algorithm.class_weights: {len(weights)} weights are given for {self.num_classes} classes; give one "
                "for each"
            )
        return torch.tensor(weights)

    def initialize(self, data: Table | None) -> None:
        """Take means and deviations of a table's columns, and the weights of balanced classes; UserError where a class
        has no example."""
        if isinstance(self.standardize, StandardizeColumns):
            assert data is not None
            self.standardize.fit(data, self.field)
        if self.config.class_weights == "balanced":
            assert data is not None and self.class_weights is not None
            counts = torch.zeros(self.num_classes, dtype=torch.float64)
            for batch in data.batches(_CHUNK):
                counts += torch.bincount(batch["label"], minlength=self.num_classes)
            if not bool(counts.all()):
                raise UserError(
                    f"algorithm.class_weights: no training example is of class {self._names()[int(counts.argmin())]}, "
                    "so that classes cannot be balanced; give the weights as a list"
                )
            self.class_weights.copy_(counts.sum() / (self.num_classes * counts))

    def phases(self) -> list[Phase]:
        """Return the one phase that descends the cross-entropy."""
        # A compiled graph cannot see the penalties set in later, would unroll a recurrent layer for a minute, and must
        # not change the running averages of batch norm.
        recurrent = any(isinstance(module, nn.RNNBase) for module in self.network.modules())
        share_statistics(self.network, self.sum_over_learners)
        fixed = not self.config.penalty_start and not recurrent and not couples_examples(self.network)
        return [Phase("classify", self.loss, tuple(self.network.parameters()), compilable=fixed)]

    def prepare(self, trajectory: dict[str, Tensor]) -> Batch:
        """Scale and standardise the inputs; other fields stay. In training with mix-up they are mixtures, beside
        `partner_label` [B] and `share` [B] of the first label."""
        inputs = self.standardize(trajectory[self.field])
        if self._shares is None or not self.training:
            return {**trajectory, self.field: inputs}
        partner, share = self.noise.permutation(len(inputs)), self._shares.quantile(self.noise.uniform(len(inputs)))
        mixed = {self.field: mix(inputs, partner, share), "share": share}
        return {**trajectory, **mixed, "partner_label": trajectory["label"].index_select(0, partner)}

    def loss(self, batch: Batch) -> Loss:
        """Return the cross-entropy [B] plus the penalties, and the accuracy [B]; with class weights each times that of
        its class, which is then its count. Of a mixture both labels have their share in all of them."""
        logits = self.network(batch[self.field])
        losses, hits, count = self._against(logits, batch["label"])
        if "share" in batch:
            share, others = batch["share"], self._against(logits, batch["partner_label"])
            losses, hits = share * losses + (1 - share) * others[0], share * hits + (1 - share) * others[1]
            if count is not None and others[2] is not None:
                count = share * count + (1 - share) * others[2]
        measured = {"accuracy": hits}
        if (_is_on(self.config.l1) or _is_on(self.config.l2)) and self.progress.epochs >= self.config.penalty_start:
            penalty = self._penalty()
            # The learner averages over examples, so that adding the penalty to each of them counts it once.
            losses = losses + (penalty if count is None else penalty * count)
            measured["penalty"] = penalty.detach()
        return Loss(losses, measured, count=count)

    def _against(self, logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return cross-entropy, accuracy and count [B] of logits with these labels."""
        losses, hits = self._cross_entropy(logits, label), metrics.accuracy(logits.detach().argmax(dim=1), label)
        if self.class_weights is None:
            return losses, hits, None
        count = self.class_weights[label]
        return losses, hits * count, count

    def _cross_entropy(self, logits: Tensor, label: Tensor) -> Tensor:
        smoothing = self.config.label_smoothing
        if not isinstance(smoothing, Tensor):
            weights = self.class_weights
            return F.cross_entropy(logits, label, weights, reduction="none", label_smoothing=smoothing)
        log_probability = F.log_softmax(logits, dim=1)
        plain = F.nll_loss(log_probability, label, reduction="none")
        return (1 - smoothing) * plain - smoothing * log_probability.mean(dim=1)

    def _penalty(self) -> Tensor:
        # Asked anew each time: a compiled or vectorised loss puts other tensors into the modules.
        penalized = [parameter for parameter in self.network.parameters() if parameter.ndim > 1]
        penalty = torch.zeros((), device=penalized[0].device)
        for weight in penalized:
            if _is_on(self.config.l1):
                penalty = penalty + self.config.l1 * weight.abs().sum()
            if _is_on(self.config.l2):
                penalty = penalty + self.config.l2 / 2 * weight.square().sum()
        return penalty

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """Return cross-entropy (nats), accuracy and error of each example [B], and what `summarize` needs."""
        logits, label = self.network(batch[self.field]), batch["label"]
        prediction = logits.argmax(dim=1)
        hit = metrics.accuracy(prediction, label)
        shown = {}
        if isinstance(self.standardize, Standardize) and batch["image"].ndim == 4 and batch["image"].shape[1] in (1, 3):
            shown = worst_mistakes(self.standardize.undo(batch["image"]), logits, label)
        return {
            **shown,
            "loss": F.cross_entropy(logits, label, reduction="none"),
            "accuracy": hit,
            "error": 1 - hit,
            "_prediction": prediction,
            "_label": label,
            "_confidence": logits.softmax(dim=1).amax(dim=1),
        }

    def summarize(self, outputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Figure]]:
        """Return macro and micro scores, the calibration error, the confusion matrix (rows: labels), each class's
        precision, recall and F1, with the data set's names, and the worst mistakes of images."""
        confusion = metrics.confusion_matrix(outputs["_prediction"], outputs["_label"], self.num_classes)
        scores = {
            "macro_precision": metrics.macro_precision(confusion),
            "macro_recall": metrics.macro_recall(confusion),
            "macro_f1_class_mean": metrics.macro_f1_class_mean(confusion),
            "macro_f1_harmonic": metrics.macro_f1_harmonic(confusion),
            "micro_f1": metrics.micro_f1(confusion),
            "calibration_error": metrics.expected_calibration_error(
                outputs["_confidence"], metrics.accuracy(outputs["_prediction"], outputs["_label"])
            ),
        }
        names = self._names()
        classes = torch.stack(metrics.class_scores(confusion), dim=1).float()
        return scores, {
            "confusion_matrix": Figure("matrix", confusion.float(), labels=names, column_labels=names),
            "class_scores": Figure("table", classes, labels=names, column_labels=metrics.ClassScores._fields),
            **picture(outputs, names),
        }

    def _names(self) -> tuple[str, ...]:
        return self.spec["label"].labels or tuple(str(index) for index in range(self.num_classes))

    def predictions(self, batch: Batch) -> dict[str, Tensor]:
        """Return the most likely class `label` [B] and its `probability` [B]."""
        return metrics.most_likely(self.inference_module()(batch[self.field]))

    def inference_module(self) -> nn.Module:
        """Return the module that maps raw images or rows [B, ...], in the data set's own range, to logits [B, K].

        It shares the weights and the mode (training or not) of this algorithm: call `eval` before use.
        """
        return nn.Sequential(self.standardize, self.network)

    def inference_input(self) -> str:
        """Return `image`, or `features` of a table."""
        return self.field


def _is_on(coefficient: float | Tensor) -> bool:
    """Return whether a penalty is asked for; a population's coefficient is a tensor, which may be 0 for some runs."""
    return isinstance(coefficient, Tensor) or coefficient != 0
