"""How an error travels back through a simple recurrent network: vanishing and exploding gradients.

Equations 178 to 183 of Qiu, *Neural Networks and Deep Learning* (2015): with h(t) = f(z(t)) and
z(t) = U h(t-1) + W x(t) + b, the error at time t is dl(t)/dz(k) = [product over i = k .. t-1 of diag(f'(z(i))) U^T]
diag(f'(z(t))) dl(t)/dh(t). Its length grows or shrinks as gamma^(t-k), gamma about |diag(f') U^T|.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rayloom_supervised.layers.cells import SimpleCell
from rayloom_supervised.layers.recurrent import RecurrentStack


def errors_through_time(cell: SimpleCell, inputs: Tensor, error: Tensor) -> Tensor:
    """Return dl/dz(k) at every time k [T, B, size] for an error dl/dh(T) [B, size] after inputs [B, T, F].

    It is the recursion of the equations, without automatic differentiation.
    """
    recurrent = cell.get_parameter("recurrent")
    projected = cell.project(inputs)
    state, slopes = cell.initial_state(inputs), []
    for given in projected.unbind(1):
        state = cell.step(given, state)
        slopes.append(1 - state[0].square())
    current = slopes[-1] * error
    errors = [current]
    for slope in reversed(slopes[:-1]):
        current = slope * (current @ recurrent)
        errors.append(current)
    return torch.stack(errors[::-1])


def growth(errors: Tensor) -> float:
    """Return gamma: the factor by which an error's length changes with each step back, as a geometric mean.

    Below 1 gradients vanish, above 1 they explode. `errors` [T, B, size] are those of `errors_through_time`.
    """
    lengths = errors.norm(dim=2)
    steps = len(errors) - 1
    return float((lengths[0].log() - lengths[-1].log()).mean().div(steps).exp())


def recurrent_gradient(cell: SimpleCell, inputs: Tensor, error: Tensor) -> Tensor:
    """Return dl/dU [size, size], the sum over all times of dl/dz(k) h(k-1)^T."""
    errors = errors_through_time(cell, inputs, error)
    state, total = cell.initial_state(inputs), torch.zeros_like(cell.get_parameter("recurrent"))
    for given, delta in zip(cell.project(inputs).unbind(1), errors, strict=True):
        total = total + delta.T @ state[0]
        state = cell.step(given, state)
    return total


def input_gradients(stack: RecurrentStack, inputs: Tensor) -> Tensor:
    """Return how long the gradient at earlier inputs is [T], 0 steps back first: log10, as a mean over the batch.

    The error is one for every unit of the last output after inputs [B, T, F]. All is relative to the last input's
    gradient, whose logarithm is 0; where nothing arrives it is that of the smallest number.
    """
    with torch.enable_grad():
        given = inputs.detach().clone().requires_grad_()
        outputs, _ = stack(given)
        (gradient,) = torch.autograd.grad(outputs[:, -1].sum(), given)
    lengths: Tensor = gradient.norm(dim=2).clamp_min(torch.finfo(gradient.dtype).tiny).log10().mean(dim=0)
    return (lengths - lengths[-1]).flip(0)
