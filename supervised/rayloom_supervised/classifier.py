"""Classification of images with a feed-forward network, trained by cross-entropy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Exhibit, Loss, Phase, Spec, TensorSpec, UserError
from rayloom_supervised import metrics
from rayloom_supervised.networks import MLP, Activation, LeNet5, Linear

Size = Annotated[int, Ge(1)]
_SMALLEST_SIDE = 4


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(AlgorithmConfig):
    """Settings of the classifier."""

    network: Literal["softmax_regression", "mlp", "lenet5"] = "mlp"
    """softmax_regression is linear; mlp is fully connected; lenet5 has two convolutions before."""
    hidden_sizes: tuple[Size, ...] | None = None
    """Units of the fully connected hidden layers (mlp, lenet5); null: 256, 128 (mlp) or 120, 84 (lenet5)."""
    channels: tuple[Size, Size] = (6, 16)
    """Feature maps of the two convolutions (lenet5)."""
    activation: Activation = "relu"
    """Nonlinearity of the hidden layers."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Probability of dropping a unit of a fully connected hidden layer."""
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of the target's mass that is spread evenly over all classes."""
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
    class_names: tuple[str, ...] = ()
    """Names on the confusion matrix; empty: the numbers of the classes."""


class Standardize(nn.Module):
    """Map raw images to the network's input: (pixel / scale - mean) / deviation, float32."""

    def __init__(self, scale: float, mean: float, deviation: float) -> None:
        super().__init__()
        self.factor = 1 / (scale * deviation)
        self.offset = -mean / deviation

    def forward(self, images: Tensor) -> Tensor:
        """Return float32 images of the same shape."""
        scaled = images.to(torch.float32) * self.factor
        return scaled + self.offset if self.offset else scaled


class Classifier(Algorithm):
    """Softmax regression, multilayer perceptron or LeNet-5, minimising the cross-entropy.

    References: LeCun et al. (1998) for LeNet-5, whose departures `networks.LeNet5` lists; Srivastava et al. (2014) for
    dropout; Szegedy et al. (2016) for label smoothing. The penalties l1 and l2 are part of the loss, unlike adamw's
    decoupled weight decay. Evaluation reports the plain cross-entropy, without smoothing and penalties.
    """

    Config = ClassifierConfig
    sources = frozenset({"dataset"})

    def __init__(self, config: ClassifierConfig, spec: Spec) -> None:
        """Build the network for the fields `image` (any shape; [C, H, W] for lenet5) and `label` of the data set."""
        super().__init__(config, spec)
        if "image" not in spec or "label" not in spec or spec["label"].num_values is None:
            raise UserError(f"source.dataset: a classifier needs the fields image and label, not {sorted(spec)}")
        self.num_classes = spec["label"].num_values
        if config.class_names and len(config.class_names) != self.num_classes:
            raise UserError(
                f"algorithm.class_names: give {self.num_classes} names, one for each class, "
                f"not {len(config.class_names)}"
            )
        scale = 255.0 if spec["image"].dtype == torch.uint8 else 1.0
        self.standardize = Standardize(scale, config.input_mean, config.input_std)
        self.network = _build_network(config, spec["image"], self.num_classes)
        self._penalized = tuple(p for p in self.network.parameters() if p.ndim > 1)

    def phases(self) -> list[Phase]:
        """Return the one phase that descends the cross-entropy."""
        # A compiled graph cannot see the penalties set in later.
        fixed = not self.config.penalty_start
        return [Phase("classify", self.loss, tuple(self.network.parameters()), compilable=fixed)]

    def prepare(self, trajectory: dict[str, Tensor]) -> Batch:
        """Scale and standardise the images; other fields stay."""
        return {**trajectory, "image": self.standardize(trajectory["image"])}

    def loss(self, batch: Batch) -> Loss:
        """Return the cross-entropy [B] plus the penalties, and the accuracy [B]."""
        logits, label = self.network(batch["image"]), batch["label"]
        losses = F.cross_entropy(logits, label, reduction="none", label_smoothing=self.config.label_smoothing)
        measured = {"accuracy": metrics.accuracy(logits.detach().argmax(dim=1), label)}
        if (self.config.l1 or self.config.l2) and self.progress.epochs >= self.config.penalty_start:
            penalty = self._penalty()
            # The learner averages over examples, so that adding the penalty to each of them counts it once.
            losses = losses + penalty
            measured["penalty"] = penalty.detach()
        return Loss(losses, measured)

    def _penalty(self) -> Tensor:
        penalty = torch.zeros((), device=self._penalized[0].device)
        for weight in self._penalized:
            if self.config.l1:
                penalty = penalty + self.config.l1 * weight.abs().sum()
            if self.config.l2:
                penalty = penalty + self.config.l2 / 2 * weight.square().sum()
        return penalty

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """Return cross-entropy (nats), accuracy and error of each example [B], and what `summarize` needs."""
        logits, label = self.network(batch["image"]), batch["label"]
        prediction = logits.argmax(dim=1)
        hit = metrics.accuracy(prediction, label)
        return {
            "loss": F.cross_entropy(logits, label, reduction="none"),
            "accuracy": hit,
            "error": 1 - hit,
            "_prediction": prediction,
            "_label": label,
        }

    def summarize(self, outputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Exhibit]]:
        """Return macro and micro scores over the split and the confusion matrix (rows: labels)."""
        confusion = metrics.confusion_matrix(outputs["_prediction"], outputs["_label"], self.num_classes)
        scores = {
            "macro_precision": metrics.macro_precision(confusion),
            "macro_recall": metrics.macro_recall(confusion),
            "macro_f1_class_mean": metrics.macro_f1_class_mean(confusion),
            "macro_f1_harmonic": metrics.macro_f1_harmonic(confusion),
            "micro_f1": metrics.micro_f1(confusion),
        }
        names = self.config.class_names or tuple(str(index) for index in range(self.num_classes))
        return scores, {"confusion_matrix": Exhibit("matrix", confusion.float(), labels=names)}

    def inference_module(self) -> nn.Module:
        """Return the module that maps raw images [B, ...], in the data set's own range, to logits [B, K].

        It shares the weights and the mode (training or not) of this algorithm: call `eval` before use.
        """
        return nn.Sequential(self.standardize, self.network)

    def inference_input(self) -> str:
        """Return `image`."""
        return "image"


def _build_network(config: Any, image: TensorSpec, num_classes: int) -> nn.Module:
    inputs = math.prod(image.shape)
    if config.network == "softmax_regression":
        if config.hidden_sizes or config.dropout:
            raise UserError(
                "algorithm.network: softmax_regression has no hidden layers; remove hidden_sizes and dropout"
            )
        return Linear(inputs, num_classes)
    if config.network == "mlp":
        hidden = (256, 128) if config.hidden_sizes is None else config.hidden_sizes
        return MLP((inputs, *hidden, num_classes), config.activation, config.dropout)
    if len(image.shape) != 3 or min(image.shape[1:]) < _SMALLEST_SIDE:
        raise UserError(
            f"algorithm.network: lenet5 needs images (channels, height, width) with sides of {_SMALLEST_SIDE} pixels "
            f"or more, not {image.shape}; use mlp"
        )
    hidden = (120, 84) if config.hidden_sizes is None else config.hidden_sizes
    channels, height, width = image.shape
    shape = (channels, height, width)
    return LeNet5(shape, num_classes, config.channels, hidden, config.activation, config.dropout)
