"""How large the gradient is in each layer of a deep network, at the start of its training and now.

Deep networks of logistic units learn slowly in their first layers: every layer multiplies an error by slopes of at most
1/4 (Hochreiter 1991; Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward neural
networks"; the derivation is in `gradients_through_layers`). Rectifiers have slopes of 0 and 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, cast, get_args

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from rayloom.contract import Algorithm, Budget, Evaluation, EvaluationConfig, Figure, Findings, Metric, UserError
from rayloom_supervised.analysis.gradients_through_layers import (
    Squashing,
    activations_of_layers,
    gradients_of_layers,
)
from rayloom_supervised.networks.perceptrons import MLP


@dataclass(frozen=True, kw_only=True)
class GradientFlowConfig(EvaluationConfig):
    """Settings of the measurement."""

    split: Literal["validation", "test"] = "validation"
    """Held-out data."""
    examples: Annotated[int, Ge(1)] = 300
    """How many of them, from the first one on."""


def gradient_norms(layers: list[nn.Linear], activation: Squashing, inputs: Tensor, label: Tensor) -> Tensor:
    """Return the norm of the mean cross-entropy's gradient by the weights of each layer [L], first layer first."""
    with torch.no_grad():
        logits = activations_of_layers(layers, activation, inputs)[-1]
        error = (logits.softmax(1) - F.one_hot(label, logits.shape[1])) / len(inputs)
    return torch.stack([each.weight.norm() for each in gradients_of_layers(layers, activation, inputs, error)])


class GradientFlow(Evaluation):
    """Compares the gradients of the run's multilayer perceptron with those of untrained ones of the same sizes.

    `rayloom evaluate RUN evaluate.import=rayloom_supervised.analysis.gradient_flow:GradientFlow`
    """

    Config = GradientFlowConfig
    metrics: ClassVar[Mapping[str, Metric]] = {
        "accuracy": Metric(better="max"),
        "first_to_last_*": Metric(
            meaning="norm of the first layer's gradient, as a share of that of the last hidden layer's; now: of the "
            "run's own network"
        ),
    }

    def run(self, policy: Algorithm, seed: int, budget: Budget) -> Findings:
        """Return the accuracy, the shares, the norms of all layers as a table, and their logarithms as curves."""
        layers, activation = _perceptron(policy)
        table = getattr(self.context.data, self.config.split)
        rows = torch.arange(min(self.config.examples, len(table)))
        batch = {name: value.to(layers[0].weight.device) for name, value in table.rows(rows).items()}
        batch = policy.prepare(batch)
        inputs, label = batch[policy.inference_input()].flatten(1), batch["label"]
        sizes = [layer.in_features for layer in layers] + [layers[-1].out_features]
        torch.manual_seed(seed)  # the engine puts the generator back
        norms = {
            name: gradient_norms(_untrained(sizes, name).to(inputs.device), name, inputs, label)
            for name in get_args(Squashing)
        }
        norms["now"] = gradient_norms(layers, activation, inputs, label)
        budget.done()
        hits = activations_of_layers(layers, activation, inputs)[-1].argmax(1) == label
        shares = {f"first_to_last_{name}": float(norm[0] / norm[-2]) for name, norm in norms.items()}
        names = tuple(f"{name}, untrained" if name != "now" else f"{activation}, this run" for name in norms)
        columns = torch.stack(list(norms.values())).cpu()
        axes = ("layer", "log10 of the gradient's norm")
        place = torch.arange(1.0, columns.shape[1] + 1)
        logarithms = columns.clamp(min=torch.finfo(columns.dtype).tiny).log10()
        figures = {
            "gradient_by_layer": Figure("curves", logarithms, labels=names, x=place, axes=axes),
            "gradient_norms": Figure(
                "table", columns, labels=names, column_labels=tuple(f"layer {i:.0f}" for i in place.tolist())
            ),
        }
        return Findings({"accuracy": float(hits.float().mean()), **shares}, figures)


class _Layers(list[nn.Linear]):
    """Layers that move together."""

    def to(self, device: torch.device) -> _Layers:
        for layer in self:
            layer.to(device)
        return self


def _untrained(sizes: list[int], activation: Squashing) -> _Layers:
    network = MLP(sizes, activation)
    return _Layers(part for part in network.layers if isinstance(part, nn.Linear))


def _perceptron(policy: Algorithm) -> tuple[_Layers, Squashing]:
    """Return the layers of a classifier's multilayer perceptron and its activation; UserError for other models."""
    network = getattr(policy, "network", None)
    activation = getattr(getattr(getattr(policy.config, "network", None), "settings", None), "activation", None)
    if not isinstance(network, MLP) or activation not in get_args(Squashing):
        raise UserError(
            "evaluate.import: GradientFlow needs a classifier whose network is an mlp with "
            f"{', '.join(get_args(Squashing))} units, which this {type(policy).__name__} is not"
        )
    layers = _Layers(part for part in network.layers if isinstance(part, nn.Linear))
    if len(layers) < 3:
        raise UserError("evaluate.import: GradientFlow compares hidden layers; the network needs two of them at least")
    return layers, cast(Squashing, activation)
