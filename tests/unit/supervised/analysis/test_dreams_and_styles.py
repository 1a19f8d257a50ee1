"""Deep Dream and style transfer against their equations, and what both do with a trained network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import rayloom
from cases import case
from rayloom.errors import UserError
from rayloom_supervised.analysis.deep_dream import DeepDreamConfig, ascend, dream
from rayloom_supervised.analysis.hidden_activations import hidden_activations
from rayloom_supervised.analysis.style_transfer import content_error, gram, style_error

_HERE = "evaluate.import=rayloom_supervised.analysis"


def test_the_forward_pass_ends_at_the_last_layer_asked_for() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 4, 3))
    images = torch.rand(2, 1, 9, 9)  # too large for the linear layer
    found = hidden_activations(module, {"maps": module[0], "units": module[1]}, images)
    assert torch.equal(found["units"], module[0](images).relu()) and torch.equal(found["maps"], module[0](images))
    with pytest.raises(RuntimeError):
        module(images)
    assert not module[0]._forward_hooks


def test_a_step_of_the_ascent_by_its_formula() -> None:
    images = torch.full((1, 1, 4, 4), 0.5)
    weight = torch.arange(16.0).view(1, 1, 4, 4)
    stepped = ascend(lambda x: (x * weight).sum((1, 2, 3)), images, 0.01, 0, torch.Generator().manual_seed(0))
    torch.testing.assert_close(stepped, images + 0.01 * weight / 7.5)
    moved = ascend(lambda x: (x * weight).sum((1, 2, 3)), images, 0.01, 3, torch.Generator().manual_seed(1))
    assert not torch.equal(moved, stepped)
    torch.testing.assert_close(moved.flatten().sort().values, stepped.flatten().sort().values)


def test_a_dream_gets_louder_and_keeps_its_size_and_range() -> None:
    torch.manual_seed(0)
    layer, config = nn.Conv2d(1, 4, 3, padding=1), DeepDreamConfig(steps=4, jitter=1)
    images = torch.rand(2, 1, 20, 20)

    def loudness(x: torch.Tensor) -> torch.Tensor:
        return layer(x).square().flatten(1).mean(1)

    changed = dream(loudness, images, config, torch.Generator().manual_seed(0))
    assert changed.shape == images.shape and float(changed.min()) >= 0 and float(changed.max()) <= 1
    assert bool((loudness(changed) > loudness(images)).all())


def test_errors_of_content_and_style_by_hand() -> None:
    activations = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])  # two maps of two places
    assert gram(activations).tolist() == [[[5.0, 11.0], [11.0, 25.0]]]
    assert content_error(activations, torch.zeros_like(activations)).tolist() == [15.0]
    # Equation 4 with N = 2 and M = 2: (25 + 121 + 121 + 625) / (4 * 4 * 4).
    assert style_error(activations, torch.zeros(1, 2, 2)).tolist() == pytest.approx([892 / 64])
    mirrored = activations.flip(3)
    assert style_error(mirrored, gram(activations) / 2).tolist() == [0.0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    output = str(tmp_path_factory.mktemp("cnn"))
    result = rayloom.run(case("cnn", output, stop={"epochs": 1}), local=True)
    return rayloom.load(result.run_id, output=output)


def test_a_trained_network_dreams(trained: Any) -> None:
    found = trained.evaluate(f"{_HERE}.deep_dream:DeepDream", "evaluate.images=3", "evaluate.steps=3")
    assert found.metrics["evaluate/loudness_after"] > 1.2 * found.metrics["evaluate/loudness_before"]
    assert found.figures["dreams"].data.shape == (6, 1, 32, 32)
    again = trained.evaluate(f"{_HERE}.deep_dream:DeepDream", "evaluate.images=3", "evaluate.steps=3")
    assert found.metrics == again.metrics
    with pytest.raises(UserError, match=r"no layer 'network\.top'; convolutions are network\.features\.0, network"):
        trained.evaluate(f"{_HERE}.deep_dream:DeepDream", "evaluate.layer=network.top")


def test_a_trained_network_transfers_a_style(trained: Any) -> None:
    settings = ("evaluate.contents=[0, 1]", "evaluate.styles=[2, 3, 4]", "evaluate.steps=15")
    found = trained.evaluate(f"{_HERE}.style_transfer:StyleTransfer", *settings)
    metrics = found.metrics
    assert metrics["evaluate/style_error_after"] < 0.5 * metrics["evaluate/style_error_before"]
    assert metrics["evaluate/content_error_after"] < metrics["evaluate/content_error_of_style"]
    assert found.figures["styles"].data.shape == (12, 1, 16, 16)
    with pytest.raises(UserError, match=r"evaluate\.styles: there are 300 examples, counted from 0, and no 900"):
        trained.evaluate(f"{_HERE}.style_transfer:StyleTransfer", "evaluate.styles=[900]")


def test_a_network_without_convolutions_is_refused(tmp_path: Path) -> None:
    result = rayloom.run(case("softmax_regression", str(tmp_path), stop={"updates": 1}), local=True)
    with pytest.raises(UserError, match="the network has no convolution"):
        rayloom.load(result.run_id, output=str(tmp_path)).evaluate(f"{_HERE}.deep_dream:DeepDream")
