"""Naive Bayes against scikit-learn and by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn import naive_bayes as peers

from rayloom import datasets
from rayloom.contract import Batch, TensorSpec
from rayloom.errors import UserError
from rayloom_generative.graphical.naive_bayes import NaiveBayes, NaiveBayesConfig

LABEL = TensorSpec(shape=(), dtype=torch.int64, num_values=10)
IMAGES = {"image": TensorSpec(shape=(1, 8, 8), dtype=torch.uint8), "label": LABEL}
POINTS = {"point": TensorSpec(shape=(2,), dtype=torch.float32), "label": LABEL}


def digits(split: str) -> Batch:
    return dict(getattr(datasets.load("digits", 0), split).columns)


def fitted(data: Batch, spec: dict[str, TensorSpec] = IMAGES, **settings: Any) -> NaiveBayes:
    """Count in three batches, as a pass does."""
    model = NaiveBayes(NaiveBayesConfig(**settings), spec)
    parts = [model.gather(model.prepare({name: value[k::3] for name, value in data.items()})) for k in range(3)]
    (rule,) = model.phases()
    rule.apply({name: sum(part.sums[name] for part in parts) for name in parts[0].sums}, len(data["label"]))
    return model


def test_bits_equal_scikit_learn() -> None:
    train, test = digits("train"), digits("test")
    model = fitted(train, smoothing=0.5, threshold=0.4)
    peer = peers.BernoulliNB(alpha=0.5, binarize=0.4 * 255).fit(
        train["image"].flatten(1).numpy(), train["label"].numpy()
    )
    ours = model.inference_module()(test["image"])
    theirs = peer.predict_joint_log_proba(test["image"].flatten(1).numpy())
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    found = model.evaluate(model.prepare(test))
    assert float(found["accuracy"].mean()) == pytest.approx(peer.score(test["image"].flatten(1), test["label"]))
    np.testing.assert_allclose(found["loss"], -peer.predict_log_proba(test["image"].flatten(1).numpy())[
        np.arange(300), test["label"]], atol=1e-9)  # fmt: skip


def test_levels_equal_scikit_learn() -> None:
    train, test = digits("train"), digits("test")
    model = fitted(train, likelihood="categorical", levels=17)
    values = {name: model.features(data["image"]).numpy() for name, data in (("train", train), ("test", test))}
    peer = peers.CategoricalNB(alpha=1.0, min_categories=17).fit(values["train"], train["label"].numpy())
    joint = model.joint_log_probability(torch.from_numpy(values["test"]))
    np.testing.assert_allclose(joint, peer.predict_joint_log_proba(values["test"]), rtol=1e-10)


@pytest.mark.parametrize("smoothing", [1e-9, 1e-2])
def test_numbers_equal_scikit_learn(smoothing: float) -> None:
    train, test = digits("train"), digits("test")
    model = fitted(train, likelihood="gaussian", variance_smoothing=smoothing)
    rows = {
        name: data["image"].flatten(1).float().numpy() / np.float32(255) for name, data in (("a", train), ("b", test))
    }
    peer = peers.GaussianNB(var_smoothing=smoothing).fit(rows["a"].astype(np.float64), train["label"].numpy())
    joint = model.joint_log_probability(model.features(test["image"]))
    np.testing.assert_allclose(model.variance, peer.var_, rtol=1e-6, atol=1e-14)
    np.testing.assert_allclose(joint, peer.predict_joint_log_proba(rows["b"].astype(np.float64)), rtol=1e-5, atol=1e-4)


def test_counts_by_hand() -> None:
    points = torch.tensor([[0.9, 0.1], [0.9, 0.9], [0.2, 0.9]])
    spec = {**POINTS, "label": TensorSpec(shape=(), dtype=torch.int64, num_values=2)}
    model = fitted({"point": points, "label": torch.tensor([0, 0, 1])}, spec)
    # p(c) = 2/3, 1/3; p(bit 0 | c) = (2+1)/(2+2), (0+1)/(1+2); p(bit 1 | c) = (1+1)/(2+2), (1+1)/(1+2).
    expected = torch.tensor([[2 / 3 * 3 / 4 * 1 / 2, 1 / 3 * 1 / 3 * 1 / 3]], dtype=torch.float64).log()
    torch.testing.assert_close(model.joint_log_probability(torch.tensor([[1, 0]])), expected)


@pytest.mark.parametrize("likelihood", ["bernoulli", "categorical", "gaussian"])
def test_samples_have_the_means_of_their_classes(likelihood: Any) -> None:
    model = fitted(digits("train"), likelihood=likelihood)
    drawn = model.sample(4000, torch.Generator().manual_seed(0)).data
    assert drawn is not None and drawn.shape == (4000, 1, 8, 8)
    expected = (model.log_prior.exp() @ model.class_means()).float()
    # Normal pixels are cut off at 0 and 1.
    error = (drawn.flatten(1).mean(0) - expected).abs().max()
    assert float(error) < (0.03 if likelihood != "gaussian" else 0.1)


def test_a_class_without_examples_is_never_chosen() -> None:
    train = digits("train")
    few = {name: value[train["label"] < 9] for name, value in train.items()}
    for likelihood in ("bernoulli", "gaussian"):
        model = fitted(few, likelihood=likelihood)
        joint = model.joint_log_probability(model.features(digits("test")["image"]))
        assert bool(joint[:, 9].isneginf().all()) and bool(joint[:, :9].isfinite().all())


def test_what_does_not_fit_is_told() -> None:
    with pytest.raises(UserError, match="needs the field label"):
        NaiveBayes(NaiveBayesConfig(), {"image": IMAGES["image"]})
    with pytest.raises(UserError, match=r"algorithm\.likelihood"):
        NaiveBayes(NaiveBayesConfig(likelihood="categorical"), POINTS)
