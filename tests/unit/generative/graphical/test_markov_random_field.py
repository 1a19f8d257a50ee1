"""The Markov random field on spins of a known model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rayloom.contract import TensorSpec
from rayloom.errors import UserError
from rayloom_generative.equations.ising import Couplings, energy
from rayloom_generative.graphical.markov_random_field import MarkovRandomField, MarkovRandomFieldConfig


def field_of(size: int, **settings: Any) -> MarkovRandomField:
    spec = {"image": TensorSpec(shape=(1, size, size), dtype=torch.float32)}
    return MarkovRandomField(MarkovRandomFieldConfig(**settings), spec)


def exact_images(bias: torch.Tensor, couplings: Couplings, count: int) -> torch.Tensor:
    """Draw 3x3 images [count, 1, 3, 3] of 0 and 1 from the enumerated distribution."""
    states = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 9).view(-1, 3, 3)
    probability = (-energy(states, bias, couplings)).softmax(0)
    rows = torch.multinomial(probability, count, replacement=True, generator=torch.Generator().manual_seed(0))
    return (states[rows][:, None] + 1) / 2


def test_pseudo_likelihood_recovers_the_parameters() -> None:
    generator = torch.Generator().manual_seed(1)
    bias, right, down = (0.4 * torch.randn(shape, generator=generator) for shape in ((3, 3), (3, 2), (2, 3)))
    model = field_of(3)
    batch = model.prepare({"image": exact_images(bias, Couplings(right, down), 20_000)})
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=100)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model.loss(batch).per_example.mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    for found, wanted in ((model.bias, bias), (model.right, right), (model.down, down)):
        torch.testing.assert_close(found.detach(), wanted, rtol=0, atol=0.05)


def test_a_homogeneous_field_has_three_parameters() -> None:
    model = field_of(5, homogeneous=True)
    assert sum(each.numel() for each in model.parameters()) == 3
    assert [tuple(each.shape) for each in model.couplings()] == [(5, 4), (4, 5)]


@pytest.mark.parametrize("restore", ["icm", "loopy", "gibbs"])
def test_smooth_images_are_restored(restore: Any) -> None:
    model = field_of(12, homogeneous=True, restore=restore, flip=0.1)
    with torch.no_grad():
        model.right.fill_(0.7)
        model.down.fill_(0.7)
    halves = torch.zeros(64, 1, 12, 12)
    halves[:32, :, :6] = 1
    halves[32:, :, :, 4:] = 1
    torch.manual_seed(0)
    found = model.evaluate(model.prepare({"image": halves}))
    noisy, restored = float(found["noisy_error"].mean()), float(found["restored_error"].mean())
    assert abs(noisy - 0.1) < 0.01 and restored < 0.35 * noisy
    assert model.prepare({"image": halves})["image"].unique().tolist() == [-1, 1]


def test_the_log_odds_of_a_flip_are_those_of_the_posterior() -> None:
    # Without couplings the posterior of each pixel is by Bayes: p(up) = 0.7 beats an observed down with flip 0.4.
    for flip, expected in ((0.4, 1.0), (0.2, -1.0)):
        model = field_of(2, restore="icm", flip=flip)
        with torch.no_grad():
            model.bias.fill_(0.5 * torch.tensor(0.7 / 0.3).log())
        assert model.restored(-torch.ones(1, 2, 2)).unique().tolist() == [expected]


def test_samples_of_independent_pixels_have_their_means() -> None:
    model = field_of(2, sample_sweeps=2)
    with torch.no_grad():
        model.bias.copy_(torch.tensor([[0.5, -0.5], [1.0, 0.0]]))
    drawn = model.sample(5000, torch.Generator().manual_seed(0)).data
    assert drawn is not None
    torch.testing.assert_close(drawn.mean(0)[0], (2 * model.bias.detach()).sigmoid(), rtol=0, atol=0.03)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 8)])
def test_other_images_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="one channel"):
        MarkovRandomField(MarkovRandomFieldConfig(), {"image": TensorSpec(shape=shape, dtype=torch.uint8)})
    with pytest.raises(UserError, match="needs the field image"):
        MarkovRandomField(MarkovRandomFieldConfig(), {"point": TensorSpec(shape=(2,), dtype=torch.float32)})
