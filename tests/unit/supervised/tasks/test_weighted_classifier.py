"""Class weights and mix-up of the classifier: golden numbers of torch's own loss and of the paper's equations."""

from __future__ import annotations

from typing import Any

import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from torch import Tensor

from cases import case
from rayloom.contract import TensorSpec
from rayloom.datasets.tables import TensorTable
from rayloom.errors import UserError
from rayloom.runs.learner_role import LearnerRole
from rayloom_supervised.layers.mix_up import SymmetricBeta, mix
from rayloom_supervised.networks.kinds import NETWORKS
from rayloom_supervised.tasks.classification import Classifier, ClassifierConfig

SPEC = {
    "features": TensorSpec(shape=(2,), dtype=torch.float32),
    "label": TensorSpec(shape=(), dtype=torch.int64, num_values=3),
}
BATCH = {
    "features": torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 2.0]]),
    "label": torch.tensor([0, 1, 2, 1]),
}


def build(**settings: Any) -> Classifier:
    algorithm = Classifier(ClassifierConfig(network=NETWORKS.component("softmax_regression"), **settings), SPEC)
    with torch.no_grad():
        algorithm.network.output.weight.copy_(torch.tensor([[0.5, -0.5], [0.0, 1.0], [-1.0, 0.25]]))
        algorithm.network.output.bias.copy_(torch.tensor([0.1, 0.0, -0.1]))
    return algorithm


def mean(algorithm: Classifier, batch: dict[str, Tensor]) -> float:
    loss = algorithm.loss(batch)
    count = torch.ones(4) if loss.count is None else loss.count
    return float((loss.per_example.sum() / count.sum()).detach())


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_weighted_loss_is_that_of_torch(smoothing: float) -> None:
    algorithm = build(class_weights=(0.5, 1.0, 4.0), label_smoothing=smoothing)
    logits = algorithm.network(BATCH["features"])
    expected = F.cross_entropy(logits, BATCH["label"], torch.tensor([0.5, 1.0, 4.0]), label_smoothing=smoothing)
    assert mean(algorithm, BATCH) == pytest.approx(float(expected.detach()), rel=1e-6)


def test_golden_numbers_of_weighted_classes() -> None:
    # From the logits (0.6, 0, -1.1), (-0.4, 1, 0.15), (0.1, 1, -0.85) and (-1.4, 2, 1.4), by a calculator.
    assert build().loss(BATCH).per_example.tolist() == pytest.approx([0.54899, 0.51522, 2.29712, 0.45881], abs=1e-5)
    assert mean(build(), BATCH) == pytest.approx(0.95503, abs=1e-5)
    weighted = build(class_weights=(0.5, 1.0, 4.0))
    assert mean(weighted, BATCH) == pytest.approx(1.60569, abs=1e-5)
    hits = weighted.loss(BATCH).metrics["accuracy"]
    assert hits.tolist() == [0.5, 1.0, 0.0, 1.0]


def test_a_penalty_counts_once_with_weights_too() -> None:
    settings = {"class_weights": (0.5, 1.0, 4.0)}
    more = mean(build(l2=2.0, **settings), BATCH) - mean(build(**settings), BATCH)
    assert more == pytest.approx(0.25 + 0.25 + 1.0 + 1.0 + 0.0625, rel=1e-5)


def test_balanced_classes_weigh_the_same_together() -> None:
    algorithm = build(class_weights="balanced")
    label = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 2])
    algorithm.initialize(TensorTable({"features": torch.randn(9, 2), "label": label}))
    assert algorithm.class_weights is not None
    assert algorithm.class_weights.tolist() == pytest.approx([0.5, 1.5, 3.0])
    assert algorithm.class_weights[label].sum() == pytest.approx(9.0)


def test_weights_that_fit_no_class_or_no_data_are_refused() -> None:
    with pytest.raises(UserError, match=r"^algorithm\.class_weights: 2 weights are given for 3 classes"):
        build(class_weights=(1.0, 2.0))
    with pytest.raises(UserError, match=r"^algorithm\.class_weights: no training example is of class 1,"):
        build(class_weights="balanced").initialize(
            TensorTable({"features": torch.randn(3, 2), "label": torch.tensor([0, 2, 2])})
        )


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_shares_have_the_beta_distribution(alpha: float) -> None:
    uniform = torch.tensor([0.0, 0.01, 0.2, 0.4999, 0.5, 0.73, 0.999], dtype=torch.float64)
    expected = torch.from_numpy(scipy.stats.beta.ppf(uniform.numpy(), alpha, alpha)).float()
    torch.testing.assert_close(SymmetricBeta(alpha).quantile(uniform), expected, rtol=0, atol=1e-4)


def test_mixtures_are_those_of_the_paper() -> None:
    inputs, partner, share = torch.eye(3).view(3, 1, 3), torch.tensor([1, 1, 0]), torch.tensor([0.25, 0.5, 1.0])
    expected = [[[0.25, 0.75, 0.0]], [[0.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]]]
    assert mix(inputs, partner, share).tolist() == expected
    algorithm = build(mix_up=0.5, class_weights=(0.5, 1.0, 4.0))
    mixed = algorithm.prepare(BATCH)
    assert set(mixed) == {"features", "label", "share", "partner_label"}
    soft = F.one_hot(mixed["label"], 3) * mixed["share"][:, None]
    soft = soft + F.one_hot(mixed["partner_label"], 3) * (1 - mixed["share"][:, None])
    weights = torch.tensor([0.5, 1.0, 4.0])
    expected_loss = -(soft * weights * F.log_softmax(algorithm.network(mixed["features"]), 1)).sum()
    assert mean(algorithm, mixed) == pytest.approx(float((expected_loss / (soft * weights).sum()).detach()), rel=1e-5)
    algorithm.eval()
    assert set(algorithm.prepare(BATCH)) == {"features", "label"}


def test_mixtures_are_drawn_from_the_runs_noise_and_by_parts_alike() -> None:
    def trained(**learner: Any) -> dict[str, Tensor]:
        role = LearnerRole(case("softmax_regression", algorithm={"mix_up": 0.4}, learner=learner))
        torch.manual_seed(len(learner))  # nothing may come from here
        for _ in range(5):
            role.learner.update(role.source.next, role.source.feedback)
        return {name: value.detach().clone() for name, value in role.algorithm.state_dict().items()}

    once, again, parts = trained(), trained(threads=1), trained(accumulate=3)
    for name, value in once.items():
        assert torch.equal(value, again[name])
        torch.testing.assert_close(value, parts[name], rtol=1e-4, atol=1e-6)
    plain = LearnerRole(case("softmax_regression"))
    for _ in range(5):
        plain.learner.update(plain.source.next, plain.source.feedback)
    assert not torch.equal(plain.algorithm.state_dict()["network.output.bias"], once["network.output.bias"])
