"""The variational autoencoder against exact posteriors and probabilistic PCA."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rayloom import datasets
from rayloom.contract import Batch, GlobalNoise, TensorSpec
from rayloom.errors import UserError
from rayloom_generative.autoencoders import vae
from rayloom_generative.autoencoders.vae import VAE, VAEConfig
from rayloom_generative.equations.probabilistic_pca import ProbabilisticPCA, fit, log_likelihood, maximum_log_likelihood

IMAGES = {"image": TensorSpec(shape=(1, 8, 8), dtype=torch.uint8)}


def points_spec(size: int) -> dict[str, TensorSpec]:
    return {"point": TensorSpec(shape=(size,), dtype=torch.float32)}


def digits(count: int = 64) -> Batch:
    return {"image": datasets.load("digits", 0).train["image"][:count]}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def small(**changes: Any) -> VAE:
    return VAE(VAEConfig(**{"latent_size": 3, "hidden_sizes": (16,), **changes}), IMAGES)


# --- an exact posterior --------------------------------------------------------------------------------------------


def exact() -> tuple[VAE, ProbabilisticPCA, torch.Tensor]:
    """A linear VAE whose encoder is the posterior of its decoder, which is probabilistic PCA."""
    generator = torch.Generator().manual_seed(3)
    points = torch.randn(200, 5, generator=generator) @ torch.randn(5, 5, generator=generator)
    model = fit(points, 2)
    config = VAEConfig(latent_size=2, hidden_sizes=(), likelihood="gaussian", deviation=float(model.variance.sqrt()))
    algorithm = VAE(config, points_spec(5))
    # The columns of W are orthogonal, so that the posterior covariance, variance * (W'W + variance)^-1, is diagonal.
    precision = model.weight.square().sum(0) + model.variance
    encoder, decoder = algorithm.encoder.network.layers[-1], algorithm.decoder.layers[-1]
    with torch.no_grad():
        decoder.weight.copy_(model.weight)
        decoder.bias.copy_(model.mean)
        encoder.weight.copy_((model.weight / precision).T)
        encoder.bias.copy_(-(model.weight / precision).T @ model.mean)
        algorithm.encoder.log_variance.copy_((model.variance / precision).log())
    return algorithm, model, points


def test_every_code_of_an_exact_posterior_has_the_weight_of_the_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm, model, points = exact()
    monkeypatch.setattr(vae, "_CHUNK", 3 * points.numel())  # seven codes in chunks of 3, 3 and 1
    with torch.no_grad():
        weights = algorithm.log_weights({"point": points}, 7)
    assert weights.shape == (7, 200)
    torch.testing.assert_close(weights, log_likelihood(points, model).expand(7, 200), rtol=1e-4, atol=1e-4)


def test_all_bounds_of_an_exact_posterior_are_tight() -> None:
    algorithm, model, points = exact()
    evidence = log_likelihood(points, model)
    with torch.no_grad():
        found = algorithm.evaluate(algorithm.prepare({"point": points}))
        losses = torch.stack([algorithm.loss(algorithm.prepare({"point": points})).per_example for _ in range(400)])
    torch.testing.assert_close(found["nll_iw5"], -evidence, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found["nll_iw50"], -evidence, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found["loss"], found["reconstruction"] + found["kl"])
    torch.testing.assert_close(losses.mean(), -evidence.mean(), rtol=5e-3, atol=0)


def test_a_linear_vae_learns_probabilistic_pca() -> None:
    generator = torch.Generator().manual_seed(4)
    mixing = torch.randn(8, 3, generator=generator)
    points = torch.randn(1000, 3, generator=generator) @ mixing.T + 0.5 * torch.randn(1000, 8, generator=generator) + 1
    algorithm = VAE(VAEConfig(latent_size=3, hidden_sizes=(), likelihood="gaussian"), points_spec(8))
    (phase,) = algorithm.phases()
    steps = 1500
    optimizer = torch.optim.Adam(phase.parameters, lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        phase.loss(algorithm.prepare({"point": points})).per_example.mean().backward()
        optimizer.step()
        schedule.step()
    best = float(maximum_log_likelihood(points.double(), 3))
    decoder = algorithm.decoder.layers[-1]
    with torch.no_grad():
        learned = ProbabilisticPCA(decoder.bias, decoder.weight, algorithm.likelihood.log_variance.exp())
        evidence = float(log_likelihood(points, learned).mean())
        elbo = -float(
            torch.stack(
                [algorithm.evaluate(algorithm.prepare({"point": points}))["loss"].mean() for _ in range(30)]
            ).mean()
        )
    assert best - 0.005 * abs(best) < evidence <= best + 1e-4
    assert best - 0.005 * abs(best) < elbo < best + 0.01


# --- bounds --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_more_samples_give_tighter_bounds(likelihood: Any) -> None:
    algorithm = small(likelihood=likelihood, importance_samples=(1, 5, 50))
    with torch.no_grad():
        for parameter in algorithm.decoder.parameters():
            parameter.mul_(2.0)  # an encoder that does not fit its decoder has loose bounds
        found = algorithm.evaluate(algorithm.prepare(digits(500)))
    names = ("loss", *(f"grey_bound_iw{count}" for count in (1, 5, 50)))
    elbo, single, five, fifty = (float(found[key].mean()) for key in names)
    assert elbo > five + 0.1
    assert single > five + 0.1
    assert five > fifty + 0.1
    assert elbo == pytest.approx(single, rel=0.02)
    assert all(value.shape == (500,) for name, value in found.items() if name != "_mean")


def test_bounds_can_be_switched_off() -> None:
    algorithm = small(importance_samples=())
    assert set(algorithm.evaluate(algorithm.prepare(digits()))) == {
        "loss",
        "reconstruction",
        "kl",
        "squared_error",
        "_mean",
    }


# --- loss ----------------------------------------------------------------------------------------------------------


def test_loss_by_hand() -> None:
    algorithm = VAE(VAEConfig(latent_size=1, hidden_sizes=(), likelihood="gaussian", deviation=1.0), points_spec(1))
    with torch.no_grad():
        for parameter, value in zip(algorithm.encoder.parameters(), (0.0, 2.0, 0.5), strict=True):
            # log-variance 0, mean 2 x + 0.5, in the order of the module's parameters
            parameter.fill_(value)
        algorithm.decoder.layers[-1].weight.fill_(3.0)
        algorithm.decoder.layers[-1].bias.fill_(-1.0)
    batch = {"point": torch.tensor([[1.0]]), "noise": torch.tensor([[0.5]])}
    loss = algorithm.loss(batch)
    # code 2.5 + 0.5 = 3; decoded 3 * 3 - 1 = 8; divergence 2.5^2 / 2
    assert loss.metrics["reconstruction"].item() == pytest.approx(0.5 * 7**2 + 0.918939, rel=1e-6)
    assert loss.metrics["kl"].item() == pytest.approx(3.125)
    assert loss.per_example.tolist() == pytest.approx([24.5 + 0.918939 + 3.125], rel=1e-6)
    assert not loss.metrics["kl"].requires_grad


@pytest.mark.parametrize(("updates", "weight"), [(0, 0.0), (50, 1.0), (100, 2.0), (1000, 2.0)])
def test_warmup(updates: int, weight: float) -> None:
    algorithm = small(beta=2.0, kl_warmup_updates=100)
    algorithm.progress.updates = updates
    loss = algorithm.loss(algorithm.prepare(digits()))
    expected = loss.metrics["reconstruction"] + weight * loss.metrics["kl"]
    torch.testing.assert_close(loss.per_example.detach(), expected)
    assert not algorithm.phases()[0].compilable
    assert small().phases()[0].compilable


def test_beta_without_warmup() -> None:
    algorithm = small(beta=0.25)
    batch = algorithm.prepare(digits())
    loss = algorithm.loss(batch)
    expected = loss.metrics["reconstruction"] + 0.25 * loss.metrics["kl"]
    torch.testing.assert_close(loss.per_example.detach(), expected)
    found = algorithm.evaluate(batch)
    torch.testing.assert_close(found["loss"], found["reconstruction"] + found["kl"])


def test_preparation_scales_binarises_and_draws_from_the_global_generator() -> None:
    raw = digits(400)
    grey = small().prepare(raw)
    torch.testing.assert_close(grey["image"], raw["image"] / 255)
    algorithm = small(binarize="dynamic")
    torch.manual_seed(7)
    first, second = algorithm.prepare(raw), algorithm.prepare(raw)
    torch.manual_seed(7)
    again = algorithm.prepare(raw)
    assert set(first["image"].unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(first["image"].mean(0), grey["image"].mean(0), rtol=0, atol=0.12)
    assert not torch.equal(first["image"], second["image"])
    assert not torch.equal(first["noise"], second["noise"])
    assert torch.equal(first["image"], again["image"])
    assert torch.equal(first["noise"], again["noise"])
    assert first["noise"].shape == (400, 3)


def test_shards_of_a_batch_equal_the_batch() -> None:
    algorithm = small(binarize="dynamic")
    batch = algorithm.prepare(digits(12))
    parameters = algorithm.phases()[0].parameters
    whole = torch.autograd.grad(algorithm.loss(batch).per_example.sum(), parameters)
    total = [torch.zeros_like(parameter) for parameter in parameters]
    for rows in (slice(0, 5), slice(5, 6), slice(6, 12)):
        shard = {name: value[rows] for name, value in batch.items()}
        gradients = torch.autograd.grad(algorithm.loss(shard).per_example.sum(), parameters)
        total = [a + b for a, b in zip(total, gradients, strict=True)]
    for a, b in zip(total, whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_a_step_never_waits_for_the_device(likelihood: Any) -> None:
    # Tensors on the meta device hold no data: anything that reads a number raises.
    algorithm = small(likelihood=likelihood).to("meta")
    algorithm.noise = GlobalNoise(torch.device("meta"))
    batch = algorithm.prepare({"image": torch.empty(4, 1, 8, 8, dtype=torch.uint8, device="meta")})
    loss = algorithm.loss(batch)
    assert loss.per_example.is_meta and loss.per_example.shape == (4,)
    with torch.no_grad():
        assert all(value.is_meta for value in algorithm.evaluate(batch).values())


# --- samples -------------------------------------------------------------------------------------------------------


def test_pictures() -> None:
    algorithm = small()
    batch = algorithm.prepare(digits(20))
    with torch.no_grad():
        first = algorithm.figures(batch)
        torch.manual_seed(9)
        second = algorithm.figures(batch)
        reconstructed = algorithm.decode(algorithm.encoder(batch["image"])[0])
    assert torch.equal(first["samples"].data, second["samples"].data)
    assert first["samples"].data.shape == (64, 1, 8, 8) and first["samples"].animate
    pairs = first["reconstructions"]
    assert (pairs.kind, pairs.columns, pairs.data.shape) == ("images", 8, (32, 1, 8, 8))  # 16 of 20: whole rows
    assert torch.equal(pairs.data[:8], batch["image"][:8])
    torch.testing.assert_close(pairs.data[8:16], reconstructed[:8])
    assert torch.equal(pairs.data[16:24], batch["image"][8:16])
    torch.testing.assert_close(pairs.data[24:], reconstructed[8:16])
    assert float(pairs.data.min()) >= 0 and float(pairs.data.max()) <= 1


def test_samples_follow_the_model() -> None:
    algorithm, model, _ = exact()
    figure = algorithm.sample(40_000, torch.Generator().manual_seed(1))
    assert figure.kind == "matrix"
    expected = model.weight @ model.weight.T + model.variance * torch.eye(5)
    scale = float(expected.abs().max())
    torch.testing.assert_close(figure.data.T.cov(), expected, rtol=0, atol=0.03 * scale)
    torch.testing.assert_close(figure.data.mean(0), model.mean, rtol=0, atol=0.03 * scale**0.5)
    again = algorithm.sample(40_000, torch.Generator().manual_seed(1))
    assert torch.equal(figure.data, again.data)


def test_samples_of_images_and_points_in_the_plane() -> None:
    images = small().sample(5, torch.Generator().manual_seed(0))
    assert (images.kind, images.data.shape) == ("images", (5, 1, 8, 8))
    plane = VAE(VAEConfig(likelihood="gaussian", hidden_sizes=(4,)), points_spec(2))
    assert plane.sample(5, torch.Generator().manual_seed(0)).kind == "points"
    figure = plane.figures(plane.prepare({"point": torch.zeros(6, 2)}))["samples"]
    assert (figure.kind, figure.data.shape) == ("points", (1000, 2))
    assert figure.reference is not None and figure.reference.shape == (6, 2)


def test_the_decoder_mirrors_the_encoder() -> None:
    algorithm = small(hidden_sizes=(16, 8))
    for network, sizes in ((algorithm.encoder.network, [64, 16, 8, 6]), (algorithm.decoder, [3, 8, 16, 64])):
        linear = [layer for layer in network.layers if isinstance(layer, torch.nn.Linear)]
        assert [linear[0].in_features, *(layer.out_features for layer in linear)] == sizes


def test_embedding_of_raw_images() -> None:
    algorithm = small()
    raw = digits(6)
    module = algorithm.inference_module()
    assert module is not None and algorithm.inference_input() == "image"
    torch.testing.assert_close(module(raw["image"]), algorithm.encoder(algorithm.prepare(raw)["image"])[0])


@pytest.mark.parametrize(
    ("spec", "changes", "sentence"),
    [
        (points_spec(2), {}, "algorithm.likelihood"),
        (IMAGES, {"likelihood": "gaussian", "binarize": "dynamic"}, "algorithm.binarize"),
        (IMAGES, {"deviation": 1.0}, "algorithm.deviation"),
        ({"text": TensorSpec(shape=(3,), dtype=torch.int64)}, {}, "source.dataset"),
    ],
)
def test_settings_that_do_not_fit(spec: Any, changes: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        VAE(VAEConfig(**changes), spec)
