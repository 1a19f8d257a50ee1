"""The sigmoid belief network against enumeration of its hidden units, and the delta rule by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rayloom.contract import TensorSpec
from rayloom.errors import UserError
from rayloom_generative.equations.densities import importance_weighted_bound
from rayloom_generative.graphical.sigmoid_belief_net import SigmoidBeliefNet, SigmoidBeliefNetConfig


def net(hidden: tuple[int, ...] = (3, 2), **settings: Any) -> SigmoidBeliefNet:
    torch.manual_seed(2)
    spec = {"image": TensorSpec(shape=(1, 2, 2), dtype=torch.float32)}
    model = SigmoidBeliefNet(SigmoidBeliefNetConfig(hidden_sizes=hidden, **settings), spec).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model.requires_grad_(False)


def all_bits(size: int) -> Tensor:
    return torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * size).view(-1, size)


def joint_table(model: SigmoidBeliefNet, log_probability: Any) -> Tensor:
    """Return the log-probability of each image (rows) with each hidden state (columns), [16, 32]."""
    images, low, high = all_bits(4), all_bits(3), all_bits(2)
    layers = [
        images[:, None, None].expand(-1, 8, 4, -1),
        low[None, :, None].expand(16, -1, 4, -1),
        high[None, None].expand(16, 8, -1, -1),
    ]
    return log_probability(layers).reshape(16, 32)


def test_both_networks_are_distributions() -> None:
    model = net()
    joint = joint_table(model, model.joint_log_probability)
    assert float(joint.exp().sum()) == pytest.approx(1.0, abs=1e-10)
    posterior = joint_table(model, model.recognition_log_probability)
    torch.testing.assert_close(posterior.exp().sum(1), torch.ones(16, dtype=torch.float64))


def test_dreams_have_the_frequencies_of_the_model() -> None:
    model = net()
    bits = model.dream(torch.rand(100_000, 9, dtype=torch.float64))[0]
    place = (bits @ torch.tensor([8.0, 4.0, 2.0, 1.0], dtype=torch.float64)).long()
    expected = joint_table(model, model.joint_log_probability).exp().sum(1)
    assert float((place.bincount(minlength=16) / 100_000 - expected).abs().sum()) / 2 <= 0.01


def test_the_bounds_lie_above_the_exact_value_and_come_down_to_it() -> None:
    model = net()
    joint = joint_table(model, model.joint_log_probability)
    evidence = joint.logsumexp(1)
    log_q = joint_table(model, model.recognition_log_probability)
    exact_bound = (log_q.exp() * (joint - log_q)).sum(1)
    images = all_bits(4).expand(20_000, -1, -1)
    weights = model.log_weights(images, torch.rand(20_000, 16, 9, dtype=torch.float64))
    torch.testing.assert_close(weights.mean(0), exact_bound, rtol=0, atol=0.1)
    torch.testing.assert_close(importance_weighted_bound(weights), evidence, rtol=0, atol=0.05)
    assert bool((exact_bound < evidence).all())


def test_wake_and_sleep_descend_by_the_delta_rule() -> None:
    model = net((3,)).requires_grad_()
    images = all_bits(4)
    batch = {"image": images, "inferred": torch.rand(16, 7).double(), "dreamt": torch.rand(16, 7).double()}
    (hidden,) = model.infer(images, batch["inferred"])
    (wake, sleep) = model.phases()
    found = torch.autograd.grad(wake.loss(batch).per_example.sum(), wake.parameters)
    guess = (hidden @ model.generative[0].weight.T + model.generative[0].bias).sigmoid()
    expected = [(model.top.sigmoid() - hidden).sum(0), (guess - images).T @ hidden, (guess - images).sum(0)]
    for ours, hand in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, hand)
    dreamt, cause = model.dream(batch["dreamt"])
    found = torch.autograd.grad(sleep.loss(batch).per_example.sum(), sleep.parameters)
    guess = (dreamt @ model.recognition[0].weight.T + model.recognition[0].bias).sigmoid()
    torch.testing.assert_close(found[0], (guess - cause).T @ dreamt)


def test_evaluation_reports_what_was_asked_for() -> None:
    model = net(importance_samples=(1, 20)).float()
    batch = model.prepare({"image": all_bits(4).float().view(-1, 1, 2, 2)})
    assert torch.equal(batch["image"], all_bits(4).float())
    found = model.evaluate(batch)
    assert set(found) == {"loss", "nll_iw1", "nll_iw20"} and all(len(each) == 16 for each in found.values())
    assert float(found["nll_iw20"].mean()) < float(found["loss"].mean())


def test_what_does_not_fit_is_told() -> None:
    with pytest.raises(UserError, match=r"algorithm\.hidden_sizes"):
        net(())
    with pytest.raises(UserError, match="needs the field image"):
        SigmoidBeliefNet(SigmoidBeliefNetConfig(), {"point": TensorSpec(shape=(2,), dtype=torch.float32)})
