"""The Wasserstein GAN: distances, the penalty's gradient, two phases that leave each other alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from rayloom import datasets
from rayloom.contract import Batch, GlobalNoise, TensorSpec
from rayloom.errors import UserError
from rayloom_generative.adversarial.wgan_gp import WGANGP, WGANGPConfig
from rayloom_generative.equations.adversarial import interpolate
from rayloom_generative.networks.adversarial import CRITICS, GENERATORS

PLANE = {"point": TensorSpec(shape=(2,), dtype=torch.float32)}
IMAGES = {"image": TensorSpec(shape=(1, 8, 8), dtype=torch.uint8)}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def networks(kind: str = "mlp", **settings: Any) -> dict[str, Any]:
    return {"generator": GENERATORS.component(kind, **settings), "critic": CRITICS.component(kind, **settings)}


def narrow(kind: str) -> dict[str, Any]:
    return networks(kind, **({"channels": 4} if kind == "conv" else {"hidden_sizes": (16,)}))


def plane(activation: Any = "relu", hidden_sizes: tuple[int, ...] = (16,), **changes: Any) -> WGANGP:
    parts = networks(hidden_sizes=hidden_sizes, activation=activation)
    return WGANGP(WGANGPConfig(latent_size=2, **{**parts, **changes}), PLANE)


def images(network: str) -> WGANGP:
    return WGANGP(WGANGPConfig(latent_size=4, **narrow(network)), IMAGES)


def plane_batch(algorithm: WGANGP, count: int = 12) -> Batch:
    return algorithm.prepare({"point": torch.randn(count, 2)})


def parameters(module: nn.Module) -> tuple[nn.Parameter, ...]:
    return tuple(module.parameters())


# --- the distance --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shift", "weight"), [(1.0, 15.0), (-1.0, 15.0), (2.0, 10.0)])
def test_the_critic_finds_the_distance_of_two_normals(shift: float, weight: float) -> None:
    line = {"point": TensorSpec(shape=(1,), dtype=torch.float32)}
    config = WGANGPConfig(latent_size=1, penalty_weight=weight, **networks(hidden_sizes=(32, 32)))
    algorithm = WGANGP(config, line)
    algorithm.generator = nn.Identity()
    phase = algorithm.phases()[0]
    optimizer = torch.optim.Adam(phase.parameters, lr=1e-2, betas=phase.optimizer["betas"])
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, 600)
    for _ in range(600):
        batch = algorithm.prepare({"point": torch.randn(256, 1) + shift})
        optimizer.zero_grad()
        phase.loss(batch).per_example.mean().backward()
        optimizer.step()
        schedule.step()
    batch = algorithm.prepare({"point": torch.randn(100_000, 1) + shift})
    batch["code"] = batch["point"] - shift  # the same noise on both sides: the shift is the only difference
    with torch.no_grad():
        estimate = float(algorithm.evaluate(batch)["wasserstein"].mean())
    # A slope s gains s |shift| and pays weight (s - 1)^2, which is best at s = 1 + |shift| / (2 weight).
    assert estimate == pytest.approx(abs(shift) * (1 + abs(shift) / (2 * weight)), rel=0.015)
    if abs(shift) == 1.0:
        assert estimate == pytest.approx(abs(shift), rel=0.05)


# --- the penalty ---------------------------------------------------------------------------------------------------


def test_slope_of_a_linear_critic_by_hand() -> None:
    algorithm = plane()
    algorithm.critic = nn.Sequential(nn.Linear(2, 1), nn.Flatten(0))
    with torch.no_grad():
        algorithm.critic[0].weight.copy_(torch.tensor([[3.0, 4.0]]))
        algorithm.critic[0].bias.fill_(1.0)
    algorithm.generator = nn.Identity()
    batch = {
        "point": torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
        "code": torch.tensor([[0.0, 0.0], [1.0, 1.0]]),
        "between": torch.tensor([0.5, 0.25]),
    }
    loss = algorithm.critic_loss(batch)
    assert loss.metrics["slope"].tolist() == pytest.approx([5.0, 5.0])
    assert loss.metrics["penalty"].tolist() == pytest.approx([16.0, 16.0])
    assert loss.metrics["wasserstein"].tolist() == pytest.approx([3.0, -3.0])
    assert loss.per_example.tolist() == pytest.approx([10 * 16 - 3.0, 10 * 16 + 3.0])
    assert not any(value.requires_grad for value in loss.metrics.values())


def test_interpolation_by_hand() -> None:
    real, fake = torch.full((3, 1, 2, 2), 8.0), torch.zeros(3, 1, 2, 2)
    mixed = interpolate(real, fake, torch.tensor([0.0, 1.0, 0.25]))
    assert mixed.amin((1, 2, 3)).tolist() == mixed.amax((1, 2, 3)).tolist() == [0.0, 8.0, 2.0]


def explicit_loss(algorithm: WGANGP, batch: Batch, weight: float) -> torch.Tensor:
    """The critic's loss with one tanh layer, whose input gradient W1' (w2 (1 - tanh^2)) is written out."""
    first, second = algorithm.critic.network.layers[0], algorithm.critic.network.layers[2]

    def score(x: torch.Tensor) -> torch.Tensor:
        return ((x @ first.weight.T + first.bias).tanh() @ second.weight.T + second.bias)[:, 0]

    fake = algorithm.generator(batch["code"]).detach()
    share = batch["between"][:, None]
    hidden = ((share * batch["point"] + (1 - share) * fake) @ first.weight.T + first.bias).tanh()
    gradient = (second.weight * (1 - hidden**2)) @ first.weight
    return score(fake) - score(batch["point"]) + weight * (gradient.norm(dim=1) - 1) ** 2


@pytest.mark.parametrize("weight", [0.0, 10.0])
def test_the_gradient_of_the_penalty_equals_the_written_out_one(weight: float) -> None:
    algorithm = plane(activation="tanh", penalty_weight=weight).double()
    batch = {name: value.double() for name, value in plane_batch(algorithm).items()}
    critic = parameters(algorithm.critic)
    loss = algorithm.critic_loss(batch).per_example
    expected = explicit_loss(algorithm, batch, weight)
    torch.testing.assert_close(loss, expected)
    # The last bias shifts both scores alike.
    for ours, theirs in zip(
        torch.autograd.grad(loss.sum(), critic), torch.autograd.grad(expected.sum(), critic), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


def test_the_gradient_of_the_penalty_equals_finite_differences() -> None:
    algorithm = plane(activation="tanh", hidden_sizes=(8, 8)).double()
    batch = {name: value.double() for name, value in plane_batch(algorithm).items()}
    critic = parameters(algorithm.critic)
    gradients = torch.autograd.grad(algorithm.critic_loss(batch).per_example.sum(), critic)
    direction = [torch.randn_like(parameter) for parameter in critic]
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))

    def moved(step: float) -> float:
        with torch.no_grad():
            for parameter, d in zip(critic, direction, strict=True):
                parameter.add_(step * d)
        value = float(algorithm.critic_loss(batch).per_example.detach().sum())
        with torch.no_grad():
            for parameter, d in zip(critic, direction, strict=True):
                parameter.sub_(step * d)
        return value

    assert (moved(1e-5) - moved(-1e-5)) / 2e-5 == pytest.approx(slope, rel=1e-6)


def test_the_penalty_moves_the_critic() -> None:
    gradients = []
    for weight in (0.0, 10.0):
        torch.manual_seed(0)
        algorithm = plane(penalty_weight=weight)
        batch = plane_batch(algorithm)
        loss = algorithm.critic_loss(batch).per_example.sum()
        gradients.append(torch.autograd.grad(loss, parameters(algorithm.critic))[0])
    assert (gradients[0] - gradients[1]).norm() > 0.1 * gradients[0].norm()


def test_a_dead_critic_has_finite_gradients() -> None:
    algorithm = plane()
    with torch.no_grad():
        for parameter in algorithm.critic.parameters():
            parameter.zero_()
    loss = algorithm.critic_loss(plane_batch(algorithm)).per_example
    assert all(bool(g.isfinite().all()) for g in torch.autograd.grad(loss.sum(), parameters(algorithm.critic)))


# --- phases --------------------------------------------------------------------------------------------------------


def test_phases() -> None:
    algorithm = plane(critic_steps=3)
    critic, generator = algorithm.phases()
    assert (critic.name, critic.repeat, critic.compilable) == ("critic", 3, False)
    assert (generator.name, generator.repeat, generator.compilable) == ("generator", 1, False)
    assert critic.optimizer == generator.optimizer == {"betas": (0.0, 0.9)}
    assert set(critic.parameters) == set(algorithm.critic.parameters())
    assert set(generator.parameters) == set(algorithm.generator.parameters())
    assert plane(betas=None).phases()[0].optimizer == {}


@pytest.mark.parametrize("kind", ["plane", "mlp", "conv"])
def test_phases_leave_each_other_alone(kind: str) -> None:
    algorithm = plane() if kind == "plane" else images(kind)
    batch = (
        plane_batch(algorithm)
        if kind == "plane"
        else algorithm.prepare({"image": torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8)})
    )
    critic, generator = algorithm.phases()
    loss = critic.loss(batch).per_example
    assert loss.shape == (len(batch["between"]),)
    others = torch.autograd.grad(loss.sum(), generator.parameters, allow_unused=True, retain_graph=True)
    assert others == (None,) * len(generator.parameters)
    loss.sum().backward(inputs=critic.parameters)
    assert all(parameter.grad is None for parameter in generator.parameters)
    before = [parameter.grad.clone() for parameter in critic.parameters]
    generator.loss(batch).per_example.sum().backward(inputs=generator.parameters)
    assert all(torch.equal(p.grad, g) for p, g in zip(critic.parameters, before, strict=True))
    assert all(float(p.grad.abs().sum()) > 0 for p in generator.parameters)


def test_the_generators_loss_falls_towards_higher_scores() -> None:
    algorithm = plane()
    batch = plane_batch(algorithm)
    expected = -algorithm.critic(algorithm.generator(batch["generator_code"]))
    torch.testing.assert_close(algorithm.generator_loss(batch).per_example, expected)


@pytest.mark.parametrize("kind", ["plane", "conv"])
def test_shards_of_a_batch_equal_the_batch(kind: str) -> None:
    if kind == "plane":
        algorithm = plane()
        batch = plane_batch(algorithm)
    else:
        algorithm = images("conv")
        batch = algorithm.prepare({"image": torch.randint(0, 256, (12, 1, 8, 8), dtype=torch.uint8)})
    for phase in algorithm.phases():
        whole = torch.autograd.grad(phase.loss(batch).per_example.sum(), phase.parameters)
        total = [torch.zeros_like(parameter) for parameter in phase.parameters]
        for rows in (slice(0, 5), slice(5, 6), slice(6, 12)):
            shard = {name: value[rows] for name, value in batch.items()}
            gradients = torch.autograd.grad(phase.loss(shard).per_example.sum(), phase.parameters)
            total = [a + b for a, b in zip(total, gradients, strict=True)]
        for a, b in zip(total, whole, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_step_never_waits_for_the_device() -> None:
    # Tensors on the meta device hold no data: anything that reads a number raises.
    algorithm = plane().to("meta")
    algorithm.noise = GlobalNoise(torch.device("meta"))
    batch = algorithm.prepare({"point": torch.empty(4, 2, device="meta")})
    for phase in algorithm.phases():
        loss = phase.loss(batch)
        torch.autograd.grad(loss.per_example.sum(), phase.parameters)
        assert loss.per_example.is_meta and all(value.is_meta for value in loss.metrics.values())
    assert algorithm.evaluate(batch)["wasserstein"].is_meta


# --- data and pictures ---------------------------------------------------------------------------------------------


def test_preparation() -> None:
    algorithm = images("mlp")
    raw = torch.tensor([0, 255, 51], dtype=torch.uint8).repeat_interleave(64).reshape(3, 1, 8, 8)
    torch.manual_seed(5)
    batch = algorithm.prepare({"image": raw})
    torch.manual_seed(5)
    again = algorithm.prepare({"image": raw})
    torch.testing.assert_close(batch["image"][:, 0, 0, 0], torch.tensor([-1.0, 1.0, -0.6]))
    assert batch["code"].shape == batch["generator_code"].shape == (3, 4)
    assert not torch.equal(batch["code"], batch["generator_code"])
    assert all(torch.equal(batch[name], again[name]) for name in batch)
    shares = algorithm.prepare({"image": raw[:1].expand(4000, 1, 8, 8)})["between"]
    assert float(shares.min()) >= 0 and float(shares.max()) < 1
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.02)


def test_no_network_couples_the_examples_of_a_batch() -> None:
    for network in ("mlp", "conv"):
        algorithm = images(network)
        assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in algorithm.modules())


@pytest.mark.parametrize("network", ["mlp", "conv"])
@pytest.mark.parametrize("side", [8, 28])
def test_pictures_of_images(network: Any, side: int) -> None:
    spec = {"image": TensorSpec(shape=(1, side, side), dtype=torch.uint8)}
    algorithm = WGANGP(WGANGPConfig(latent_size=4, **narrow(network)), spec)
    batch = algorithm.prepare({"image": torch.zeros(3, 1, side, side, dtype=torch.uint8)})
    with torch.no_grad():
        shown = algorithm.figures(batch)["samples"]
        torch.manual_seed(9)
        assert torch.equal(shown.data, algorithm.figures(batch)["samples"].data)
    assert (shown.kind, shown.data.shape) == ("images", (64, 1, side, side))
    assert shown.animate and not algorithm.figures(batch)["interpolations"].animate
    drawn = algorithm.sample(5, torch.Generator().manual_seed(1))
    assert drawn.data.shape == (5, 1, side, side)
    assert float(drawn.data.min()) >= 0 and float(drawn.data.max()) <= 1
    code = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(drawn.data, (algorithm.generator(code).detach() + 1) / 2)


def test_points_are_shown_before_held_out_ones_and_their_modes_counted() -> None:
    algorithm = plane(known_modes="gaussian-grid")
    data = datasets.load(
        {"kind": "gaussian-grid", "train_size": 10, "test_size": 10, "validation_size": 2000}, 0
    ).validation
    with torch.no_grad():
        batch = algorithm.prepare(data.columns)
        algorithm.generator = nn.Identity()
        batch["code"] = batch["point"]  # a perfect generator
        found = algorithm.evaluate(batch)
        shown = algorithm.figures(batch)["samples"]
        scores, figures = algorithm.summarize({key: value for key, value in found.items() if key.startswith("_")})
    torch.testing.assert_close(found["wasserstein"], torch.zeros(2000))
    assert (shown.kind, shown.data.shape) == ("points", (1000, 2))
    assert shown.reference is not None and torch.equal(shown.reference, data["point"][:1000])
    assert float(scores["good_fraction"]) > 0.995
    assert float(scores["modes_covered"]) == 25
    assert float(scores["diversity"]) == pytest.approx(1.0)
    assert figures["scores"].kind == "histogram" and figures["scores"].data.shape == (2, 2000)


@pytest.mark.parametrize(
    ("spec", "changes", "sentence"),
    [
        (PLANE, {"generator": GENERATORS.component("conv")}, "algorithm.generator: conv needs images"),
        (IMAGES, {"critic": CRITICS.component("conv", normalization="batch")}, "algorithm.critic: batch norm couples"),
        ({"image": TensorSpec(shape=(1, 10, 8), dtype=torch.uint8)}, networks("conv"), "multiples of 4"),
        (IMAGES, {"known_modes": "gaussian-ring"}, "algorithm.known_modes"),
        ({}, {}, "source.dataset"),
    ],
)
def test_settings_that_do_not_fit(spec: Any, changes: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        WGANGP(WGANGPConfig(**changes), spec)
