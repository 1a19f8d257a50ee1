"""Bounds by many codes against exact posteriors, and who has none."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from conftest import require_fashion_mnist
from rayloom import datasets
from rayloom.contract import Budget, EvaluationContext, TensorSpec
from rayloom.datasets import Dataset
from rayloom.errors import UserError
from rayloom_generative.adversarial.gan import GAN, GANConfig
from rayloom_generative.autoencoders.vae import VAE, VAEConfig
from rayloom_generative.evaluation.importance_bound import _AT_ONCE as AT_ONCE
from rayloom_generative.evaluation.importance_bound import ImportanceBound, ImportanceBoundConfig


def found(model: Any, data: Any, **settings: Any) -> dict[str, float]:
    torch.manual_seed(1)
    evaluation = ImportanceBound(ImportanceBoundConfig(**settings), EvaluationContext(source=None, data=data))
    with torch.no_grad():
        return evaluation.run(model, 0, Budget(60.0)).metrics


class Guess:
    """A model of two examples whose weights are known: log-weights log(k + 1) + row for codes k in their order."""

    def __init__(self) -> None:
        self.drawn = 0

    def parameters(self) -> Any:
        return iter([torch.zeros(1)])

    def prepare(self, batch: Any) -> Any:
        self.drawn = 0
        return batch

    def bound_name(self, count: int) -> str:
        return f"nll_iw{count}"

    def log_weights(self, batch: Any, count: int) -> torch.Tensor:
        codes = torch.arange(self.drawn, self.drawn + count) + 1
        self.drawn += count
        return codes.log()[:, None] + batch["point"][:, 0]


def points() -> Dataset:
    rows = {"point": torch.tensor([[0.0], [2.0], [4.0]])}
    return Dataset(rows, rows, rows, {"point": TensorSpec(shape=(1,), dtype=torch.float32)})


def test_by_hand_over_several_parts() -> None:
    most = AT_ONCE + 100
    metrics = found(Guess(), points(), codes=(most, 1, 3), examples=2, batch_size=1)
    # Rows 0 and 2 of three; the mean of 1..K is (K + 1) / 2.
    for count in (1, 3, most):
        expected = -(torch.tensor((count + 1) / 2).log() + 2)
        assert metrics[f"nll_iw{count}"] == pytest.approx(float(expected), rel=1e-5)
        assert metrics[f"nll_iw{count}_error"] == pytest.approx(2 / 2**0.5, rel=1e-5)


def test_every_further_code_tightens_the_bound() -> None:
    torch.manual_seed(0)
    data = datasets.load("digits", 0)
    model = VAE(VAEConfig(latent_size=3, hidden_sizes=(16,), binarize="dynamic"), data.spec)
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.mul_(2.0)
        elbo = float(model.evaluate(model.prepare(data.validation.rows(torch.arange(60))))["loss"].mean())
    metrics = found(model, data, codes=(5, 50, 5000), examples=60)
    five, fifty, many = (metrics[f"nll_iw{count}"] for count in (5, 50, 5000))
    assert elbo > five > fifty > many
    # No model can have fewer nats than the draw of the bits itself.
    rows = torch.linspace(0, len(data.validation) - 1, 60).long()
    grey = data.validation.rows(rows)["image"].double() / 255
    entropy = -(torch.special.xlogy(grey, grey) + torch.special.xlogy(1 - grey, 1 - grey)).sum() / 60
    assert metrics["least_nats"] == pytest.approx(float(entropy)) and many > metrics["least_nats"]
    plain = VAE(VAEConfig(latent_size=3, hidden_sizes=(16,)), data.spec)
    assert "least_nats" not in found(plain, data, codes=(1,), examples=5), "grey pixels are not drawn"


def test_the_least_nats_of_fashion_mnist() -> None:
    require_fashion_mnist()
    data = datasets.load("fashion-mnist", 0)
    model = VAE(VAEConfig(latent_size=2, hidden_sizes=(8,), binarize="dynamic"), data.spec)
    least = model.least_nats(data.test.rows(torch.arange(10_000)))
    assert least is not None and float(least.mean()) == pytest.approx(189.86, abs=0.005)


def test_a_model_without_a_likelihood_is_told_so() -> None:
    data = datasets.load("gaussian-ring", 0)
    model = GAN(GANConfig(), data.spec)
    with pytest.raises(UserError, match=r"GAN has no likelihood that ImportanceBound could bound; evaluate a VAE"):
        found(model, data)
    with pytest.raises(UserError, match=r"ImportanceBound needs a data set"):
        found(model, None)
