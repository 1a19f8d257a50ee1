"""GAN and WGAN: the losses against numbers by hand and torch's, the averaged generator, two time scales."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.spatial.distance import jensenshannon
from torch import nn

from cases import case
from rayloom.contract import Batch, Component, TensorSpec, component
from rayloom.errors import UserError
from rayloom.runs.learner_role import LearnerRole
from rayloom_generative.adversarial.gan import GAN, GANConfig
from rayloom_generative.adversarial.wgan import WGAN, WGANConfig
from rayloom_generative.equations.adversarial import (
    arc,
    discriminator_loss,
    jensen_shannon_bound,
    minimax_generator_loss,
    non_saturating_generator_loss,
)
from rayloom_generative.networks.adversarial import CRITICS, GENERATORS

PLANE = {"point": TensorSpec(shape=(2,), dtype=torch.float32)}
NARROW: dict[str, Any] = {
    "latent_size": 2,
    "generator": GENERATORS.component("mlp", hidden_sizes=(8,)),
    "critic": CRITICS.component("mlp", hidden_sizes=(8,)),
}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def batch_for(algorithm: GAN | WGAN, count: int = 12) -> Batch:
    return algorithm.prepare({"point": torch.randn(count, 2)})


# --- equations -----------------------------------------------------------------------------------------------------


def test_the_losses_are_cross_entropies() -> None:
    real, fake = torch.linspace(-3, 4, 9), torch.linspace(5, -2, 9)
    ones, zeros = torch.ones(9), torch.zeros(9)
    entropy = F.binary_cross_entropy_with_logits
    torch.testing.assert_close(
        discriminator_loss(real, fake), entropy(real, ones, reduction="none") + entropy(fake, zeros, reduction="none")
    )
    torch.testing.assert_close(non_saturating_generator_loss(fake), entropy(fake, ones, reduction="none"))
    torch.testing.assert_close(minimax_generator_loss(fake), -entropy(fake, zeros, reduction="none"))
    undecided = torch.zeros(1)
    assert float(discriminator_loss(undecided, undecided)) == pytest.approx(2 * math.log(2))


def test_the_minimax_loss_is_flat_where_the_discriminator_wins() -> None:
    slopes = {}
    for loss in (minimax_generator_loss, non_saturating_generator_loss):
        score = torch.tensor([-10.0], requires_grad=True)
        loss(score).backward()
        slopes[loss] = float(score.grad)
    probability = 1 / (1 + math.exp(10))
    assert slopes[minimax_generator_loss] == pytest.approx(-probability, rel=1e-4)
    assert slopes[non_saturating_generator_loss] == pytest.approx(-(1 - probability), rel=1e-4)


def test_the_bound_is_the_divergence_for_the_best_discriminator() -> None:
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.1, 0.8])
    logits = torch.tensor(np.log(p / q))  # of D = p / (p + q)
    # The expectation under both distributions, which the bound takes over independent pairs.
    bound = sum(
        p[i] * q[j] * float(jensen_shannon_bound(logits[i : i + 1], logits[j : j + 1]))
        for i in range(3)
        for j in range(3)
    )
    assert bound == pytest.approx(jensenshannon(p, q) ** 2)
    assert float(jensen_shannon_bound(2 * logits, 2 * logits).mean()) < bound


def test_codes_on_an_arc_stay_normal() -> None:
    first, last = torch.randn(20_000, 2), torch.randn(20_000, 2)
    codes = arc(first, last, 5)
    assert codes.shape == (5, 20_000, 2)
    torch.testing.assert_close(codes[0], first)
    torch.testing.assert_close(codes[-1], last, atol=1e-6, rtol=0)
    assert codes.std(1).flatten().tolist() == pytest.approx([1.0] * 10, abs=0.02)


# --- the algorithms ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["minimax", "non_saturating"])
def test_the_phases_use_their_own_codes_and_losses(loss: Any) -> None:
    algorithm = GAN(GANConfig(loss=loss, **NARROW), PLANE)
    batch = batch_for(algorithm)
    real, fake = algorithm.critic(batch["point"]), algorithm.critic(algorithm.generator(batch["code"]))
    found = algorithm.critic_loss(batch)
    torch.testing.assert_close(found.per_example, -F.logsigmoid(real) - torch.log(1 - fake.sigmoid()))
    torch.testing.assert_close(found.metrics["real_probability"], real.sigmoid())
    torch.testing.assert_close(found.metrics["fake_probability"], fake.sigmoid())
    score = algorithm.critic(algorithm.generator(batch["generator_code"]))
    expected = torch.log(1 - score.sigmoid()) if loss == "minimax" else -torch.log(score.sigmoid())
    torch.testing.assert_close(algorithm.generator_loss(batch).per_example, expected)


def test_both_losses_push_the_generator_towards_higher_scores() -> None:
    for loss in ("minimax", "non_saturating"):
        score = torch.randn(5, requires_grad=True)
        GAN(GANConfig(loss=loss, **NARROW), PLANE).loss_of_generator(score).sum().backward()  # type: ignore[arg-type]
        assert bool((score.grad < 0).all())


def test_the_critics_weights_stay_in_their_box() -> None:
    config = case("wgan", algorithm={"clip": 0.02})
    role = LearnerRole(config)
    largest = lambda: max(float(p.detach().abs().max()) for p in role.algorithm.critic.parameters())  # noqa: E731
    assert largest() == pytest.approx(0.02), "before the first loss"
    for _ in range(3):
        role.learner.update(role.source.next, role.source.feedback)
        assert largest() == pytest.approx(0.02)
    loose = max(float(p.detach().abs().max()) for p in role.algorithm.generator.parameters())
    assert loose > 0.1, "the generator is free"
    role.close()


def test_the_wasserstein_loss_by_hand() -> None:
    algorithm = WGAN(WGANConfig(clip=10.0, **NARROW), PLANE)
    algorithm.critic = nn.Sequential(nn.Linear(2, 1), nn.Flatten(0))
    with torch.no_grad():
        algorithm.critic[0].weight.copy_(torch.tensor([[3.0, 4.0]]))
    algorithm.generator = nn.Identity()
    batch = {"point": torch.tensor([[1.0, 0.0], [0.0, 1.0]]), "code": torch.tensor([[0.0, 0.0], [1.0, 1.0]])}
    loss = algorithm.critic_loss(batch)
    assert loss.per_example.tolist() == pytest.approx([-3.0, 3.0])
    assert loss.metrics["wasserstein"].tolist() == pytest.approx([3.0, -3.0])


def test_the_averaged_generator_by_hand() -> None:
    algorithm = GAN(GANConfig(average=0.5, **NARROW), PLANE)
    assert algorithm.averaged is not None and algorithm.sampler is algorithm.averaged
    assert not any(parameter.requires_grad for parameter in algorithm.averaged.parameters())
    weight, mean = algorithm.generator.network.layers[0].weight, algorithm.averaged.network.layers[0].weight
    assert torch.equal(weight, mean)
    start = mean.clone()
    with torch.no_grad():
        weight.add_(1.0)
        algorithm.after_update(1)  # the decay begins with 2 / 11
        torch.testing.assert_close(mean, start + 9 / 11)
        algorithm.after_update(1000)
        torch.testing.assert_close(mean, start + 9 / 11 + 0.5 * 2 / 11)
    assert GAN(GANConfig(**NARROW), PLANE).averaged is None


def test_samples_and_evaluations_are_the_averaged_generators() -> None:
    algorithm = GAN(GANConfig(average=0.9, **NARROW), PLANE)
    with torch.no_grad():
        for parameter in algorithm.averaged.parameters():  # type: ignore[union-attr]
            parameter.zero_()
        batch = batch_for(algorithm)
        assert not algorithm.evaluate(batch)["_generated"].any()
        assert not algorithm.sample(4, torch.Generator().manual_seed(0)).data.any()  # type: ignore[union-attr]
        assert not algorithm.figures(batch)["samples"].data.any()  # type: ignore[union-attr]


def test_two_time_scales() -> None:
    rates = {"generator_learning_rate": 2e-4, "critic_learning_rate": 8e-4, "betas": (0.5, 0.9)}
    critic, generator = GAN(GANConfig(**NARROW, **rates), PLANE).phases()  # type: ignore[arg-type]
    assert critic.optimizer == {"betas": (0.5, 0.9), "learning_rate": 8e-4}
    assert generator.optimizer == {"betas": (0.5, 0.9), "learning_rate": 2e-4}
    assert all(phase.optimizer == {} for phase in GAN(GANConfig(**NARROW), PLANE).phases())


def test_losses_that_can_be_compiled_may_be() -> None:
    assert all(phase.compilable and phase.autocast for phase in GAN(GANConfig(**NARROW), PLANE).phases())


@component("generator")
def nothing(config: object, inputs: int, example: TensorSpec) -> None:
    """Return no network."""


def test_a_generator_of_ones_own_must_be_a_module() -> None:
    own = Component(None, f"{__name__}:nothing", nothing.Config())
    with pytest.raises(
        UserError, match=r"algorithm\.generator: .*:nothing must return a torch\.nn\.Module, not NoneType"
    ):
        GAN(GANConfig(generator=own), PLANE)
