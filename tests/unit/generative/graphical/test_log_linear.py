"""The log-linear model against closed forms, iterative proportional fitting and finite differences."""

from __future__ import annotations

import itertools

import pytest
import torch

from rayloom import datasets
from rayloom.contract import Batch, TensorSpec
from rayloom.errors import UserError
from rayloom_generative.graphical.log_linear import LogLinearConfig, LogLinearModel

BINARY = TensorSpec(shape=(), dtype=torch.int64, num_values=2)
SPEC = {"a": BINARY, "b": TensorSpec(shape=(), dtype=torch.int64, num_values=3), "c": BINARY}
STATES = torch.tensor(list(itertools.product(range(2), range(3), range(2))))


def rows(count: int = 3000) -> Batch:
    generator = torch.Generator().manual_seed(0)
    chance = torch.rand(12, generator=generator) + 0.2
    drawn = STATES[torch.multinomial(chance, count, replacement=True, generator=generator)]
    return dict(zip("abc", drawn.unbind(1), strict=True))


def fitted(features: tuple[tuple[str, ...], ...]) -> LogLinearModel:
    model = LogLinearModel(LogLinearConfig(features=features), SPEC).double()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=200, tolerance_grad=1e-12, tolerance_change=0)
    data = rows()

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model.loss(data).per_example.mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    return model.requires_grad_(False)


def frequencies() -> torch.Tensor:
    data = rows()
    place = data["a"] * 6 + data["b"] * 2 + data["c"]
    return (place.bincount(minlength=12).double() / 3000).view(2, 3, 2)


def test_a_decomposable_model_has_its_closed_form() -> None:
    model, empirical = fitted((("a", "b"), ("b", "c"))), frequencies()
    ab, bc, b = empirical.sum(2), empirical.sum(0), empirical.sum((0, 2))
    expected = ab[:, :, None] * bc[None] / b[None, :, None]
    torch.testing.assert_close(model.log_probability(STATES).exp().view(2, 3, 2), expected, rtol=0, atol=1e-6)


def test_a_cycle_equals_iterative_proportional_fitting() -> None:
    model, empirical = fitted((("a", "b"), ("b", "c"), ("a", "c"))), frequencies()
    table = torch.full((2, 3, 2), 1 / 12, dtype=torch.float64)
    for _ in range(500):
        for axis in (2, 0, 1):
            table = table * (empirical.sum(axis, keepdim=True) / table.sum(axis, keepdim=True))
    torch.testing.assert_close(model.log_probability(STATES).exp().view(2, 3, 2), table, rtol=0, atol=1e-6)
    found = model.evaluate(rows())
    metrics, _ = model.summarize({"_state": found["_state"]})
    assert float(metrics["feature_gap"]) < 1e-6


def test_the_gradient_equals_finite_differences() -> None:
    torch.manual_seed(0)
    model = LogLinearModel(LogLinearConfig(features=(("a", "b"), ("c", "a"))), SPEC).double()
    for weight in model.weights:
        torch.nn.init.normal_(weight)
    data, step = rows(20), 1e-6
    gradients = torch.autograd.grad(model.loss(data).per_example.sum(), list(model.weights))
    for weight, gradient in zip(model.weights, gradients, strict=True):
        flat = weight.data.view(-1)
        for place in range(flat.numel()):
            value, sides = float(flat[place]), []
            for moved in (value + step, value - step):
                flat[place] = moved
                sides.append(float(model.loss(data).per_example.detach().sum()))
            flat[place] = value
            assert float(gradient.reshape(-1)[place]) == pytest.approx((sides[0] - sides[1]) / (2 * step), abs=1e-6)


def test_samples_have_the_models_expectations() -> None:
    model = fitted((("a", "b"), ("b", "c")))
    drawn = model.sample(20_000, torch.Generator().manual_seed(0)).data
    assert drawn is not None
    place = (drawn[:, 0] * 3 + drawn[:, 1]).long()
    found = place.bincount(minlength=6).double() / 20_000
    assert float((found - model.expectation(0).flatten()).abs().sum()) / 2 <= 0.01


def test_the_shipped_groups_fit_the_sprinkler() -> None:
    data = datasets.load("sprinkler", 0)
    groups = (("cloudy", "sprinkler", "rain"), ("sprinkler", "rain", "wet_grass"))
    model = LogLinearModel(LogLinearConfig(features=groups), data.spec)
    assert model.names == ("cloudy", "sprinkler", "rain", "wet_grass")


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ((("a", "d"),), r"algorithm\.features: there is no variable 'd'"),
        ((("a", "a"),), "no group of different variables"),
        (((),), "no group of different variables"),
        ((), "no group of different variables"),
    ],
)
def test_wrong_groups_are_told(features: tuple[tuple[str, ...], ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LogLinearModel(LogLinearConfig(features=features), SPEC)
