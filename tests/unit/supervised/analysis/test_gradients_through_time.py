"""Errors through time against automatic differentiation, and how the recurrent matrix makes them vanish or explode."""

from __future__ import annotations

import pytest
import torch

from rayloom_supervised.analysis.gradients_through_time import errors_through_time, growth, recurrent_gradient
from rayloom_supervised.layers.cells import SimpleCell
from rayloom_supervised.layers.recurrent import RecurrentLayer


def made(scale: float) -> SimpleCell:
    torch.manual_seed(0)
    cell = SimpleCell(3, 6).double()
    with torch.no_grad():
        cell.get_parameter("recurrent").mul_(scale)
    return cell


def test_the_recursion_is_backpropagation() -> None:
    cell, inputs = made(0.9), torch.randn(4, 7, 3, dtype=torch.float64)
    error = torch.randn(4, 6, dtype=torch.float64)
    with torch.no_grad():
        errors, gradient = errors_through_time(cell, inputs, error), recurrent_gradient(cell, inputs, error)
    outputs, _ = RecurrentLayer(cell)(inputs)
    loss = (outputs[:, -1] * error).sum()
    weights = cell.input.bias, cell.get_parameter("recurrent")
    bias, recurrent = torch.autograd.grad(loss, weights)
    torch.testing.assert_close(gradient, recurrent)
    torch.testing.assert_close(errors.sum(dim=(0, 1)), bias)


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.8])
def test_errors_vanish_or_explode_as_the_matrix_says(scale: float) -> None:
    # Without inputs the states stay 0, where tanh has the slope 1; an orthogonal matrix keeps every length.
    cell, inputs = made(scale), torch.zeros(2, 30, 3, dtype=torch.float64)
    errors = errors_through_time(cell, inputs, torch.ones(2, 6, dtype=torch.float64)).detach()
    assert growth(errors) == pytest.approx(scale)


def test_saturated_units_let_errors_vanish_whatever_the_matrix() -> None:
    cell, inputs = made(1.0), torch.zeros(2, 30, 3, dtype=torch.float64)
    with torch.no_grad():
        cell.input.bias.fill_(3.0)
    assert growth(errors_through_time(cell, inputs, torch.ones(2, 6, dtype=torch.float64)).detach()) < 0.5
