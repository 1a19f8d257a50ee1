"""Objectives against numbers worked out by hand and torch's own losses."""

from __future__ import annotations

import math

import torch

from rayloom_agents.equations.objectives import clipped_surrogate, huber


def test_clipped_surrogate_by_hand() -> None:
    ratios = torch.tensor([1.5, 0.5, 1.5, 0.5, 1.1])
    advantage = torch.tensor([2.0, 2.0, -2.0, -2.0, 2.0])
    old = torch.full((5,), math.log(0.2))
    objective, ratio = clipped_surrogate(old + ratios.log(), old, advantage, 0.2)
    # The gain is cut at 1.2; a ratio that already fell is not rewarded for falling further; losses are never cut.
    torch.testing.assert_close(objective, torch.tensor([2.4, 1.0, -3.0, -1.6, 2.2]))
    torch.testing.assert_close(ratio, ratios)


def test_the_clipped_part_has_no_gradient() -> None:
    log_probability = torch.tensor([math.log(1.5), math.log(0.5), 0.0], requires_grad=True)
    advantage = torch.tensor([1.0, -1.0, 1.0])
    objective, _ = clipped_surrogate(log_probability, torch.zeros(3), advantage, 0.2)
    objective.sum().backward()
    torch.testing.assert_close(log_probability.grad, torch.tensor([0.0, 0.0, 1.0]))


def test_huber_equals_torch() -> None:
    error = torch.linspace(-4, 4, 41, requires_grad=True)
    for threshold in (0.5, 1.0, 2.0):
        expected = torch.nn.functional.huber_loss(error, torch.zeros(41), reduction="none", delta=threshold)
        torch.testing.assert_close(huber(error, threshold), expected)
        (gradient,) = torch.autograd.grad(huber(error, threshold).sum(), error)
        torch.testing.assert_close(gradient, error.detach().clamp(-threshold, threshold))
