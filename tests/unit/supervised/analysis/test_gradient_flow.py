"""Gradients by layer against automatic differentiation, and random labels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import rayloom
from cases import case
from rayloom import datasets
from rayloom.errors import UserError
from rayloom_supervised.analysis.gradient_flow import gradient_norms

FLOW = "evaluate.import=rayloom_supervised.analysis.gradient_flow:GradientFlow"
RANDOM = "rayloom_supervised.data.random_labels:random_labels"


def test_norms_are_those_of_automatic_differentiation() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 3)]
    inputs, label = torch.randn(7, 4), torch.arange(7) % 3
    network = nn.Sequential(layers[0], nn.Sigmoid(), layers[1], nn.Sigmoid(), layers[2])
    nn.functional.cross_entropy(network(inputs), label).backward()
    expected = torch.stack([layer.weight.grad.norm() for layer in layers])  # type: ignore[union-attr]
    torch.testing.assert_close(gradient_norms(layers, "logistic", inputs, label), expected)


def test_the_first_layers_of_deep_logistic_networks_get_almost_nothing(tmp_path: Path) -> None:
    sizes = {"kind": "mlp", "hidden_sizes": [32] * 8, "activation": "relu"}
    result = rayloom.run(case("softmax_regression", str(tmp_path), algorithm={"network": sizes}), local=True)
    found = rayloom.load(result.run_id, output=str(tmp_path)).evaluate(FLOW)
    metrics = found.metrics
    assert metrics["evaluate/first_to_last_logistic"] < 1e-3
    assert 0.1 < metrics["evaluate/first_to_last_relu"] < 10 and metrics["evaluate/first_to_last_now"] > 0.1
    assert metrics["evaluate/accuracy"] == pytest.approx(result.metrics["evaluate/accuracy"])
    assert found.figures["gradient_by_layer"].data.shape == (4, 9)
    plain = rayloom.run(case("softmax_regression", str(tmp_path), stop={"updates": 1}), local=True)
    with pytest.raises(UserError, match="GradientFlow needs a classifier whose network is an mlp"):
        rayloom.load(plain.run_id, output=str(tmp_path)).evaluate(FLOW)


def test_random_labels_replace_a_share_of_the_training_labels_only() -> None:
    plain = datasets.load("digits", 0)
    some, again, other = (datasets.load({"import": RANDOM, "share": 0.4}, seed) for seed in (3, 3, 4))
    kept = (some.train.columns["label"] == plain.train.columns["label"]).float().mean()
    assert float(kept) == pytest.approx(0.6 + 0.4 / 10, abs=0.04)
    assert torch.equal(some.train.columns["image"], plain.train.columns["image"])
    assert torch.equal(some.validation.columns["label"], plain.validation.columns["label"])
    assert some.digest == again.digest != other.digest
    with pytest.raises(UserError, match="has no label of classes"):
        datasets.load({"import": RANDOM, "dataset": "diabetes"}, 0)
