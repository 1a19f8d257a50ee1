"""Regression, the perceptron and tables of columns, against scikit-learn and Novikoff's bound."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.metrics import r2_score
from sklearn.preprocessing import StandardScaler

from cases import case
from rayloom.contract import UserError
from rayloom.datasets.small_tables import (
    BreastCancerConfig,
    DiabetesConfig,
    load_breast_cancer,
    load_diabetes,
)
from rayloom.runs.learner_role import LearnerRole
from rayloom_supervised.metrics.regression import determination
from rayloom_supervised.tasks.perceptron import perceptron_update
from trained_roles import train_role


def diabetes(split: str) -> tuple[np.ndarray, np.ndarray]:
    rows = next(getattr(load_diabetes(DiabetesConfig(), 0), split).batches(1000))
    return rows["features"].numpy().astype(float), rows["target"].numpy().astype(float)


@pytest.mark.parametrize("ridge", [0.0, 5.0])
@pytest.mark.parametrize("batch_size", [7, 266])
def test_least_squares_is_scikit_learn_s(ridge: float, batch_size: int) -> None:
    config = case(
        "least_squares",
        algorithm={"ridge": ridge},
        learner={"batch_size": batch_size},
        source={"drop_last": False},
        stop={"epochs": 1},
    )
    role = train_role(config)
    features, target = diabetes("train")
    scaler = StandardScaler().fit(features)
    oracle: Any = Ridge(alpha=ridge) if ridge else LinearRegression()
    oracle.fit(scaler.transform(features), target)
    found = role.algorithm.coefficients.numpy()
    np.testing.assert_allclose(found[:-1], oracle.coef_, rtol=1e-4)
    np.testing.assert_allclose(found[-1], oracle.intercept_, rtol=1e-5)
    held_out, wanted = diabetes("validation")
    prediction = oracle.predict(scaler.transform(held_out))
    deployed = role.algorithm.inference_module()(torch.from_numpy(held_out).float())
    np.testing.assert_allclose(deployed.numpy(), prediction, rtol=1e-3)
    findings = role.evaluator.evaluate(1).metrics
    assert findings["evaluate/r2"] == pytest.approx(r2_score(wanted, prediction), rel=1e-4)
    assert findings["evaluate/absolute_error"] == pytest.approx(np.abs(prediction - wanted).mean(), rel=1e-4)


def test_columns_that_depend_on_others_do_no_harm() -> None:
    algorithm = LearnerRole(case("least_squares")).algorithm
    rows = torch.randn(50, 10)
    rows[:, 9] = rows[:, 0] - rows[:, 1]
    batch = {"features": rows, "target": rows[:, 0] * 3 + 1}
    gathered = algorithm.gather(batch)
    algorithm.solve(gathered.sums, 50.0)
    torch.testing.assert_close(algorithm.predict(rows), batch["target"], rtol=1e-4, atol=1e-4)


def test_gradient_descent_reaches_the_closed_form() -> None:
    steps = {"batch_size": 266, "optimizer": {"kind": "sgd", "learning_rate": 0.1, "momentum": 0.9}}
    source = {"drop_last": False}
    config = case(
        "regressor",
        algorithm={"network": "softmax_regression", "l2": 0.0},
        learner=steps,
        source=source,
        stop={"epochs": 600},
    )
    by_gradient = train_role(config).evaluator.evaluate(1).metrics
    closed = train_role(case("least_squares", source=source, stop={"epochs": 1})).evaluator.evaluate(1).metrics
    assert by_gradient["evaluate/squared_error"] == pytest.approx(closed["evaluate/squared_error"], rel=1e-3)


@pytest.mark.parametrize(
    ("prediction", "target", "expected"),
    [([1.0, 2.0, 4.0], [1.0, 2.0, 3.0], 0.5), ([2.0, 2.0], [2.0, 2.0], 1.0), ([1.0, 2.0], [2.0, 2.0], 0.0)],
)
def test_determination_by_hand(prediction: list[float], target: list[float], expected: float) -> None:
    assert float(determination(torch.tensor(prediction), torch.tensor(target))) == pytest.approx(expected)
    assert expected in (0.0, 1.0) or r2_score(target, prediction) == pytest.approx(expected)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(2, 40), st.integers(0, 10**6))
def test_novikoff_s_bound_holds(columns: int, rows: int, seed: int) -> None:
    """The number of updates never exceeds R^2 / gamma^2, whatever the order of the examples."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(columns, generator=generator, dtype=torch.float64)
    direction /= direction.norm()
    points = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    signs = torch.where(points @ direction > 0, 1.0, -1.0).double()
    points += 0.2 * signs[:, None] * direction  # a margin of 0.2 at least
    margin = float((signs * (points @ direction)).min())
    radius = float(points.norm(dim=1).max())
    weights, updates = torch.zeros(columns, dtype=torch.float64), 0
    for _ in range(2000):
        before = updates
        for point, sign in zip(points, signs, strict=True):
            change = perceptron_update(weights, point[None], sign[None])
            updates += int(bool(change.any()))
            weights += change
        if updates == before:
            break
    assert updates == before and 1 <= updates <= radius**2 / margin**2 + 1e-9
    assert bool((signs * (points @ weights) > 0).all())


def test_the_printed_rule_would_never_begin() -> None:
    point, sign = torch.tensor([[1.0, 2.0]]), torch.tensor([-1.0])
    assert perceptron_update(torch.zeros(2), point, sign).tolist() == [-1.0, -2.0]
    assert not perceptron_update(torch.tensor([-1.0, 0.0]), point, sign).any()


def test_a_batch_of_the_perceptron_is_the_sum_of_its_mistakes() -> None:
    weights, rows = torch.randn(4), torch.randn(9, 4)
    signs = torch.where(torch.randn(9) > 0, 1.0, -1.0)
    one_by_one = sum(perceptron_update(weights, rows[i : i + 1], signs[i : i + 1]) for i in range(9))
    torch.testing.assert_close(perceptron_update(weights, rows, signs), one_by_one)


def test_the_mean_of_the_weights_decides() -> None:
    role = train_role(case("perceptron", learner={"batch_size": 1}, stop={"epochs": 5}))
    algorithm = role.algorithm
    torch.testing.assert_close(algorithm.decision(), algorithm.total / algorithm.steps)
    assert int(algorithm.steps) == 5 * 341
    assert role.evaluator.evaluate(1).metrics["evaluate/accuracy"] >= 0.95
    rows = next(load_breast_cancer(BreastCancerConfig(), 0).validation.batches(1000))
    batch = algorithm.prepare(dict(rows))
    deployed = algorithm.inference_module()(rows["features"])
    torch.testing.assert_close(deployed, (batch["features"] @ algorithm.decision()).float(), rtol=1e-4, atol=1e-4)


def test_a_classifier_of_tables_standardises_by_the_training_rows() -> None:
    role = LearnerRole(case("table_classifier"))
    rows = next(load_breast_cancer(BreastCancerConfig(), 0).train.batches(1000))["features"]
    prepared = role.algorithm.prepare({"features": rows})["features"]
    expected = StandardScaler().fit_transform(rows.numpy().astype(float))
    np.testing.assert_allclose(prepared.numpy(), expected, atol=1e-4)
    assert role.algorithm.inference_input() == "features"


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "least_squares",
            {"source": {"dataset": "digits"}},
            "a regression needs the fields features and target, not image",
        ),
        (
            "perceptron",
            {"source": {"dataset": "diabetes"}},
            "the perceptron needs the field features and a label of two",
        ),
        ("table_classifier", {"source": {"dataset": "diabetes"}}, "a classifier needs the fields image or features"),
        ("table_classifier", {"algorithm": {"input_mean": 0.5}}, "columns of a table are standardised by themselves"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LearnerRole(case(name, **changes))
