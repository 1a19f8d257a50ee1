"""The classifier: loss and gradient against independent formulas, metrics, deployment, and its mistakes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from torch import nn

from rayloom import datasets
from rayloom.config.load import load as load_config
from rayloom.config.load import validate
from rayloom.contract import TensorSpec, component
from rayloom.errors import UserError
from rayloom_supervised.networks.kinds import NETWORKS
from rayloom_supervised.tasks.classification import Classifier, ClassifierConfig

SPEC = datasets.load("digits", 0).spec
KINDS = ("softmax_regression", "mlp", "lenet5", "cnn", "rnn")


def build(network: str = "mlp", of_network: Mapping[str, Any] | None = None, **settings: Any) -> Classifier:
    component = NETWORKS.component(network, **(of_network or {}))
    return Classifier(ClassifierConfig(network=component, **settings), SPEC)


def refused(settings: Mapping[str, Any]) -> str:
    """Return the sentence with which settings of the classifier are refused."""
    with pytest.raises(UserError) as caught:
        validate(ClassifierConfig, settings, "algorithm")
    return str(caught.value)


def digits_batch(algorithm: Classifier, count: int = 32) -> dict[str, torch.Tensor]:
    train = datasets.load("digits", 0).train
    return algorithm.prepare({name: tensor[:count] for name, tensor in train.columns.items()})


def test_prepare_scales_and_standardises() -> None:
    raw = {"image": torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1), "label": torch.tensor([0, 1, 2])}
    plain = build().prepare(raw)
    assert plain["image"].dtype == torch.float32
    assert plain["image"].flatten().tolist() == pytest.approx([0.0, 0.2, 1.0])
    assert torch.equal(plain["label"], raw["label"])
    standard = build(input_mean=0.2, input_std=0.4).prepare(raw)
    assert standard["image"].flatten().tolist() == pytest.approx([-0.5, 0.0, 2.0])
    assert raw["image"].flatten().tolist() == [0, 51, 255]


def test_images_that_are_already_real_are_not_scaled() -> None:
    spec = {**SPEC, "image": TensorSpec(shape=(1, 8, 8), dtype=torch.float32)}
    image = torch.rand(2, 1, 8, 8)
    algorithm = Classifier(ClassifierConfig(), spec)
    assert torch.equal(algorithm.prepare({"image": image, "label": torch.zeros(2).long()})["image"], image)


@pytest.mark.parametrize("network", KINDS)
def test_loss_is_the_cross_entropy_of_each_example(network: str) -> None:
    algorithm = build(network=network)
    for parameter in algorithm.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    batch = digits_batch(algorithm)
    loss = algorithm.loss(batch)
    logits = algorithm.network(batch["image"]).double()
    expected = torch.logsumexp(logits, 1) - logits[torch.arange(32), batch["label"]]
    assert loss.per_example.shape == (32,)
    assert torch.allclose(loss.per_example.double(), expected, atol=1e-5)
    assert loss.metrics["accuracy"].tolist() == (logits.argmax(1) == batch["label"]).float().tolist()
    assert set(loss.metrics) == {"accuracy"}
    assert not loss.metrics["accuracy"].requires_grad


def test_gradient_of_softmax_regression_by_its_formula() -> None:
    algorithm = build(network="softmax_regression")
    batch = digits_batch(algorithm)
    weight, bias = algorithm.network.output.weight, algorithm.network.output.bias
    torch.nn.init.normal_(weight)
    algorithm.loss(batch).per_example.mean().backward()
    inputs = batch["image"].flatten(1)
    # The gradient is the mean of (softmax - one-hot) x.
    difference = torch.softmax(inputs @ weight.T + bias, 1) - F.one_hot(batch["label"], 10)
    assert torch.allclose(weight.grad, (difference.T @ inputs / 32).detach(), atol=1e-6)
    assert torch.allclose(bias.grad, difference.mean(0).detach(), atol=1e-6)


def test_label_smoothing_mixes_in_the_uniform_distribution() -> None:
    algorithm = build(network="mlp", label_smoothing=0.3)
    batch = digits_batch(algorithm)
    log = F.log_softmax(algorithm.network(batch["image"]), 1)
    expected = -0.7 * log[torch.arange(32), batch["label"]] - 0.3 * log.mean(1)
    assert torch.allclose(algorithm.loss(batch).per_example, expected, atol=1e-5)
    assert torch.allclose(algorithm.evaluate(batch)["loss"], -log[torch.arange(32), batch["label"]], atol=1e-5)


@pytest.mark.parametrize(("network", "matrices"), [("mlp", 3), ("cnn", 4), ("rnn", 3)])
def test_penalties_count_once_and_spare_the_biases(network: str, matrices: int) -> None:
    plain, penalized = build(network=network), build(network=network, l1=0.01, l2=0.5)
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    penalized.load_state_dict(plain.state_dict())
    batch = digits_batch(plain)
    weights = [p for name, p in plain.named_parameters() if "weight" in name]
    assert len(weights) == matrices
    expected = sum(0.01 * w.abs().sum() + 0.25 * (w**2).sum() for w in weights)
    loss = penalized.loss(batch)
    difference = loss.per_example.mean() - plain.loss(batch).per_example.mean()
    assert float(difference.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    assert float(loss.metrics["penalty"]) == pytest.approx(float(expected.detach()), rel=1e-5)
    loss.per_example.mean().backward()
    plain.loss(batch).per_example.mean().backward()
    for (name, one), other in zip(plain.named_parameters(), penalized.parameters(), strict=True):
        extra = 0.01 * one.sign() + 0.5 * one if "weight" in name else 0.0
        assert torch.allclose(other.grad, one.grad + extra, atol=1e-5)


def test_penalties_set_in_after_the_given_epochs() -> None:
    algorithm = build(network="mlp", l2=1.0, penalty_start=2)
    batch = digits_batch(algorithm)
    algorithm.progress.epochs = 1
    assert "penalty" not in algorithm.loss(batch).metrics
    algorithm.progress.epochs = 2
    assert float(algorithm.loss(batch).metrics["penalty"]) > 1


def test_defaults_of_the_architectures() -> None:
    def sizes(network: str, **settings: Any) -> list[tuple[int, ...]]:
        return [tuple(p.shape) for p in build(network, settings).network.parameters() if p.ndim > 1]

    assert sizes("lenet5") == [(6, 1, 5, 5), (16, 6, 3, 3), (120, 64), (84, 120), (10, 84)]
    assert sizes("cnn") == [(32, 1, 3, 3), (64, 32, 3, 3), (128, 256), (10, 128)]
    assert sizes("cnn", channels=(4,), hidden_sizes=()) == [(4, 1, 3, 3), (10, 64)]
    assert sizes("rnn") == [(512, 8), (512, 128), (10, 128)]
    gru = sizes("rnn", cell="gru", cell_size=5, cell_layers=2, hidden_sizes=(7,), dropout=0.1)
    assert gru == [(15, 8), (15, 5), (15, 5), (15, 5), (7, 5), (10, 7)]


def test_one_phase_owns_every_parameter_once() -> None:
    for network in KINDS:
        algorithm = build(network=network)
        (phase,) = algorithm.phases()
        assert [id(p) for p in phase.parameters] == [id(p) for p in algorithm.parameters()]


def test_evaluate_and_summarize() -> None:
    named = replace(SPEC["label"], labels=tuple("zyxwvutsrq"))
    algorithm = Classifier(ClassifierConfig(network=NETWORKS.component("mlp")), {**SPEC, "label": named})
    batch = digits_batch(algorithm, 500)
    outputs = algorithm.evaluate(batch)
    shapes = {name: tuple(value.shape) for name, value in outputs.items() if not name.startswith("_mistake_")}
    assert shapes == dict.fromkeys(("loss", "accuracy", "error", "_prediction", "_label", "_confidence"), (500,))
    assert torch.equal(outputs["error"], 1 - outputs["accuracy"])
    assert torch.equal(outputs["_label"], batch["label"])
    scores, figures = algorithm.summarize({name: value for name, value in outputs.items() if name[0] == "_"})
    expected = f1_score(outputs["_label"], outputs["_prediction"], average="macro", labels=range(10), zero_division=0)
    assert float(scores["macro_f1_class_mean"]) == pytest.approx(expected)
    assert float(scores["micro_f1"]) == pytest.approx(float(outputs["accuracy"].mean()))
    assert float(scores["macro_f1_harmonic"]) > expected
    matrix = figures["confusion_matrix"]
    assert matrix.kind == "matrix"
    assert matrix.labels == tuple("zyxwvutsrq")
    assert torch.equal(matrix.data.sum(1).long(), outputs["_label"].bincount(minlength=10))
    assert build().summarize(outputs)[1]["confusion_matrix"].labels == tuple("0123456789")


@pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning")  # of torch's own recurrent layers
@pytest.mark.parametrize("network", KINDS)
def test_inference_takes_raw_images(network: str) -> None:
    algorithm = build(network=network, input_mean=0.3, input_std=0.4).eval()
    for parameter in algorithm.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    raw = datasets.load("digits", 0).test["image"][:5]
    module = algorithm.inference_module()
    expected = algorithm.network((raw.float() / 255 - 0.3) / 0.4)
    assert torch.allclose(module(raw), expected, atol=1e-5)
    assert torch.allclose(module(raw.float()), expected, atol=1e-5)
    assert algorithm.inference_input() == "image"
    exported = torch.export.export(module, (raw,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)).module()
    assert torch.allclose(exported(raw), expected, atol=1e-5)
    assert torch.allclose(exported(raw[:3]), expected[:3], atol=1e-5)


def test_the_loss_does_not_synchronise_with_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm = build("lenet5", {"dropout": 0.5}, l1=0.1, l2=0.1, label_smoothing=0.1)
    batch = digits_batch(algorithm)

    def refuse(*_: Any) -> None:
        raise AssertionError("the loss waited for the device")

    for name in ("item", "cpu", "tolist", "numpy", "__bool__", "__float__", "__int__", "__index__"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    algorithm.loss(batch)


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        ({"kind": "softmax_regression", "hidden_sizes": [3]}, ".hidden_sizes: softmax_regression has no such setting"),
        ({"kind": "mlp", "channels": [6, 16]}, ".channels: mlp has no such setting; the choices are hidden_sizes, act"),
        ({"kind": "mlp", "cell": "gru"}, ".cell: mlp has no such setting"),
        ({"kind": "lenet5", "chanels": [6, 16]}, ".chanels: lenet5 has no such setting; did you mean 'channels'?"),
        ({"kind": "lenet5", "channels": [8]}, ".channels.1: this key is required"),
        ({"kind": "lenet5", "channels": [8, 9, 10]}, ".channels: tuple should have at most 2 items"),
        ({"kind": "cnn", "channels": []}, ".channels: tuple should have at least 1 item"),
        ({"kind": "rnn", "channels": [4]}, ".channels: rnn has no such setting"),
        ({"kind": "rnn", "dropout": 0.5}, ": an rnn without hidden_sizes has no units to drop; give some"),
        ({"dropout": 1.0}, ".dropout: input should be less than 1"),
        ({"hidden_sizes": [0]}, ".hidden_sizes.0: input should be greater than or equal to 1"),
        ({"kind": "cnn", "channels": [8, 0]}, ".channels.1: input should be greater than or equal to 1"),
        ({"kind": "rnn", "cell": "elman"}, ".cell: input should be 'rnn', 'lstm' or 'gru', not 'elman'"),
        ({"kind": "rnn", "cell_size": 0}, ".cell_size: input"),
        ({"kind": "rnn", "cell_layers": 0}, ".cell_layers: input"),
        ("lenet", ".kind: 'lenet' is no network; did you mean 'lenet5'?"),
        ("torch.nn:Linear", ".import: torch.nn:Linear needs a Config beside it"),
        ("os:system", ".import: os:system is no network; name a torch.nn.Module built from (config, spec, outputs)"),
    ],
)
def test_a_network_takes_its_own_settings_only(network: Any, sentence: str) -> None:
    assert refused({"network": network}).startswith(f"algorithm.network{sentence}")


@dataclass(frozen=True, kw_only=True)
class BlobConfig:
    """Settings of a network of one's own."""

    scale: float = 1.0


class Blob(nn.Module):
    """Sums the pixels."""

    Config = BlobConfig

    def __init__(self, config: BlobConfig, spec: TensorSpec, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((math.prod(spec.shape), outputs), config.scale))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return [B, outputs]."""
        return images.flatten(1) @ self.weight


@component("network", BlobConfig)
def no_network(config: BlobConfig, spec: TensorSpec, outputs: int) -> Any:
    """Return something else."""
    return [outputs]


def test_ones_own_network_trains() -> None:
    own = {"import": f"{__name__}:Blob", "scale": 0.5}
    config = validate(ClassifierConfig, {"network": own}, "algorithm")
    algorithm = Classifier(config, SPEC)
    assert isinstance(algorithm.network, Blob)
    assert torch.equal(algorithm.network.weight, torch.full((64, 10), 0.5))
    loss = algorithm.loss(digits_batch(algorithm))
    torch.testing.assert_close(loss.per_example, torch.full((32,), math.log(10)))  # all logits alike
    config = validate(ClassifierConfig, {"network": f"{__name__}:no_network"}, "algorithm")
    with pytest.raises(UserError, match=r"no_network must return a torch\.nn\.Module, not list$"):
        Classifier(config, SPEC)


def test_data_that_do_not_fit() -> None:
    with pytest.raises(UserError, match="needs the fields image or features, and label"):
        Classifier(ClassifierConfig(), {"point": TensorSpec(shape=(2,), dtype=torch.float32)})
    flat = {**SPEC, "image": TensorSpec(shape=(64,), dtype=torch.uint8)}
    Classifier(ClassifierConfig(network=NETWORKS.component("mlp")), flat)
    for network in ("lenet5", "cnn", "rnn"):
        with pytest.raises(UserError, match=rf"{network} needs images"):
            Classifier(ClassifierConfig(network=NETWORKS.component(network)), flat)
    line = {**SPEC, "image": TensorSpec(shape=(1, 1, 1), dtype=torch.uint8)}
    for network in ("cnn", "rnn"):
        assert Classifier(ClassifierConfig(network=NETWORKS.component(network)), line).network(
            torch.ones(2, 1, 1, 1)
        ).shape == (2, 10)
    small = {**SPEC, "image": TensorSpec(shape=(1, 3, 9), dtype=torch.uint8)}
    with pytest.raises(UserError, match="sides of 4 pixels"):
        Classifier(ClassifierConfig(network=NETWORKS.component("lenet5")), small)


@pytest.mark.parametrize("settings", [{"l2": -1.0}, {"input_std": 0}, {"label_smoothing": 1.0}])
def test_values_out_of_range_name_their_key(settings: dict[str, Any]) -> None:
    assert refused(settings).startswith(f"algorithm.{next(iter(settings))}: input should be")


def test_full_batch_descent_reaches_scikit_learns_optimum() -> None:
    """The penalised loss is the one whose minimum scikit-learn finds with C = 1 / (n l2)."""
    data = datasets.load("digits", 0)
    algorithm = build(network="softmax_regression", l2=0.01)
    batch = algorithm.prepare(data.train.columns)
    optimizer = torch.optim.LBFGS(
        algorithm.phases()[0].parameters, max_iter=200, line_search_fn="strong_wolfe", tolerance_change=1e-12
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        mean = algorithm.loss(batch).per_example.mean()
        mean.backward()
        return mean

    optimizer.step(closure)
    inputs, label = batch["image"].flatten(1).numpy(), batch["label"].numpy()
    expected = LogisticRegression(C=1 / (len(label) * 0.01), tol=1e-8, max_iter=2000).fit(inputs, label)
    with torch.no_grad():
        test = algorithm.prepare(data.test.columns)
        probability = torch.softmax(algorithm.network(test["image"]), 1).numpy()
    assert np.abs(probability - expected.predict_proba(test["image"].flatten(1).numpy())).max() < 2e-3
    assert np.abs(algorithm.network.output.weight.detach().numpy() - expected.coef_).max() < 2e-3


CONFIGS = [f"{network}_{data}" for network in KINDS for data in ("digits", "fashion_mnist")]


@pytest.mark.parametrize("name", CONFIGS)
def test_shipped_configs_are_complete(name: str) -> None:
    config = load_config(name)
    assert config.algorithm_class() is Classifier
    assert isinstance(config.algorithm, ClassifierConfig)
    assert config.algorithm.network.kind == name.rsplit("_fashion", 1)[0].rsplit("_digits", 1)[0]
    assert set(config.stop) == {"epochs"}
    assert config.evaluate.settings.every == "1 epochs"
