"""The fast gradient sign method against the closed form of a linear model, and what it does to a trained network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import rayloom
from cases import case
from rayloom.errors import UserError
from rayloom_supervised.analysis.adversarial_examples import fast_gradient_sign

IMPORT = "evaluate.import=rayloom_supervised.analysis.adversarial_examples:AdversarialExamples"


def test_a_linear_model_is_attacked_by_its_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    images, label = torch.rand(5, 1, 3, 4, generator=generator), torch.tensor([0, 1, 2, 0, 1])
    changed = fast_gradient_sign(module, images, label, 0.2, 1.0)
    weight = module[1].weight.detach()
    with torch.no_grad():
        wrong = module(images).softmax(1) - nn.functional.one_hot(label, 3)  # dL / d logits
    expected = (images + 0.2 * (wrong @ weight).sign().reshape(images.shape)).clamp(0, 1)
    torch.testing.assert_close(changed, expected)
    assert module[1].weight.grad is None


def test_no_change_of_this_size_does_more_harm_to_two_linear_classes() -> None:
    generator = torch.Generator().manual_seed(1)
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    image, label = torch.full((1, 1, 2, 2), 0.5), torch.tensor([1])

    def loss(images: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(module(images), label.expand(len(images)), reduction="none").detach()

    worst = loss(fast_gradient_sign(module, image, label, 0.1, 1.0))
    others = image + 0.1 * (2 * torch.rand(500, 1, 2, 2, generator=generator) - 1)
    assert bool((loss(others) <= worst + 1e-6).all()) and float(worst) > float(loss(image))


def test_a_classifier_of_digits_is_misled(tmp_path: Path) -> None:
    result = rayloom.run(case("softmax_regression", str(tmp_path), stop={"epochs": 8}), local=True)
    trained = rayloom.load(result.run_id, output=str(tmp_path))
    found = trained.evaluate(IMPORT, "evaluate.epsilons=[0.02, 0.3]")
    metrics = found.metrics
    assert metrics["evaluate/accuracy"] == pytest.approx(result.metrics["evaluate/accuracy"])
    assert metrics["evaluate/accuracy"] > metrics["evaluate/accuracy_at_0.02"] > metrics["evaluate/accuracy_at_0.3"]
    assert metrics["evaluate/accuracy_at_0.3"] < 0.2
    images = found.figures["changed_images"].data
    assert images is not None and images.shape == (24, 1, 8, 8)
    gap = (images[16:] - images[:8]).abs().numpy()
    assert gap.max() <= 0.3 + 1e-6 and np.mean(gap > 0.29) > 0.3
    with pytest.raises(UserError, match="is no classifier of images"):
        vae = rayloom.run(case("vae", str(tmp_path), stop={"updates": 2}), local=True)
        rayloom.load(vae.run_id, output=str(tmp_path)).evaluate(IMPORT)
