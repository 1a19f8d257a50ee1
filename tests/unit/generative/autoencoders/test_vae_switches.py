"""The variational autoencoder's switches: likelihoods, convolutions, labels, free bits, several codes in training."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch.distributions import Categorical as Levels
from torch.distributions import Normal

from rayloom import datasets
from rayloom.contract import Batch, TensorSpec
from rayloom.errors import UserError
from rayloom_generative.autoencoders.likelihoods import Categorical, Gaussian
from rayloom_generative.autoencoders.vae import VAE, VAEConfig, collapse
from rayloom_generative.networks.variational import ConvolutionalDecoder, one_hot

LABELLED = {
    "image": TensorSpec(shape=(1, 8, 8), dtype=torch.uint8),
    "label": TensorSpec(shape=(), dtype=torch.int64, num_values=10),
}
POINTS = {"point": TensorSpec(shape=(2,), dtype=torch.float32)}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def digits(count: int = 64) -> Batch:
    train = datasets.load("digits", 0).train
    return {"image": train["image"][:count], "label": train["label"][:count]}


def small(**changes: Any) -> VAE:
    return VAE(VAEConfig(**{"latent_size": 3, "hidden_sizes": (16,), "channels": 4, **changes}), LABELLED)


# --- likelihoods -----------------------------------------------------------------------------------------------------


def test_levels_have_the_probabilities_of_their_logits() -> None:
    likelihood = Categorical(5)
    data = torch.tensor([[0.0, 0.25, 1.0], [0.5, 0.51, 0.74]])
    decoded = torch.randn(2, 15)
    expected = Levels(logits=decoded.reshape(2, 3, 5)).log_prob(torch.tensor([[0, 1, 4], [2, 2, 3]])).sum(1)
    torch.testing.assert_close(likelihood.log_density(data, decoded), expected)
    several = likelihood.log_density(data, decoded.expand(7, 2, 15))
    torch.testing.assert_close(several, expected.expand(7, 2))
    grey = (Levels(logits=decoded.reshape(2, 3, 5)).probs * torch.tensor([0, 0.25, 0.5, 0.75, 1])).sum(-1)
    torch.testing.assert_close(likelihood.mean(decoded), grey)


def test_means_of_images_stay_in_range_and_those_of_points_do_not() -> None:
    wild = torch.tensor([[-2.0, 0.5, 3.0]])
    assert Gaussian(1.0, bounded=True).mean(wild).tolist() == [[0, 0.5, 1]]
    assert torch.equal(Gaussian(1.0, bounded=False).mean(wild), wild)


def test_the_convolutional_decoder_puts_the_outputs_of_a_pixel_beside_each_other() -> None:
    example = TensorSpec(shape=(2, 8, 8), dtype=torch.uint8)
    decoder = ConvolutionalDecoder(3, example, channels=4, hidden=8, outputs=5)
    code = torch.randn(6, 3)
    planes = decoder.network(code).reshape(6, 2, 5, 8, 8)  # colour, output, row, column
    found = decoder(code).reshape(6, 2, 8, 8, 5)
    assert torch.equal(found, planes.permute(0, 1, 3, 4, 2))


# --- bounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"network": "conv"},
        {"network": "conv", "likelihood": "categorical", "conditional": True},
        {"likelihood": "categorical"},
        {"conditional": True},
        {"likelihood": "gaussian", "network": "conv"},
        {"training_samples": 4, "binarize": "dynamic"},
    ],
)
def test_elbo_then_five_then_fifty_samples(changes: dict[str, Any]) -> None:
    algorithm = small(importance_samples=(5, 50), **changes)
    with torch.no_grad():
        for parameter in algorithm.decoder.parameters():
            parameter.mul_(2.0)  # an encoder that does not fit its decoder has loose bounds
        found = algorithm.evaluate(algorithm.prepare(digits(300)))
    names = ("loss", algorithm.bound_name(5), algorithm.bound_name(50))
    elbo, five, fifty = (float(found[name].mean()) for name in names)
    assert elbo > five > fifty > 0
    assert found["squared_error"].shape == (300,)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "grey_bound_iw7"),
        ({"likelihood": "gaussian"}, "grey_bound_iw7"),
        ({"binarize": "dynamic"}, "nll_iw7"),
        ({"likelihood": "categorical"}, "nll_iw7"),
    ],
)
def test_a_number_on_grey_pixels_is_never_called_a_likelihood(changes: dict[str, Any], name: str) -> None:
    assert small(**changes).bound_name(7) == name


def test_the_trained_bound_equals_one_from_densities() -> None:
    algorithm = small(training_samples=4)
    batch = algorithm.prepare(digits(10))
    assert batch["noise"].shape == (10, 4, 3)
    mean, log_variance = algorithm.encode(batch)
    posterior = Normal(mean, (0.5 * log_variance).exp())
    total = []
    for sample in range(4):
        code = mean + posterior.stddev * batch["noise"][:, sample]
        logits = algorithm.decoder(code)
        pixels = batch["image"].flatten(1)
        likelihood = (pixels * logits.sigmoid().log() + (1 - pixels) * (1 - logits.sigmoid()).log()).sum(1)
        total.append(likelihood + Normal(0.0, 1.0).log_prob(code).sum(1) - posterior.log_prob(code).sum(1))
    expected = -torch.stack(total).exp().mean(0).log()
    loss = algorithm.loss(batch)
    torch.testing.assert_close(loss.per_example, expected, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(loss.metrics["elbo"], torch.stack(total).mean(0), rtol=1e-4, atol=1e-3)
    assert bool((loss.per_example <= -loss.metrics["elbo"] + 1e-4).all())


def test_free_bits_cost_nothing_until_they_are_spent() -> None:
    free, dear = small(free_bits=1e4), small()
    dear.load_state_dict(free.state_dict())
    batch = free.prepare(digits())
    found, plain = free.loss(batch), dear.loss(batch)
    torch.testing.assert_close(found.per_example, found.metrics["reconstruction"] + 3 * 1e4)
    torch.testing.assert_close(found.metrics["kl"], plain.metrics["kl"])  # what is reported has no bits for free
    half = small(free_bits=0.05)
    half.load_state_dict(free.state_dict())
    mean, log_variance = half.encode(batch)
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
    expected = plain.metrics["reconstruction"] + divergence.clamp(min=0.05).sum(1)
    torch.testing.assert_close(half.loss(batch).per_example, expected)
    assert 0 < int((divergence < 0.05).sum()) < divergence.numel()


# --- labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_encoder_and_decoder_see_the_label(network: Any) -> None:
    algorithm = small(conditional=True, network=network)
    batch = algorithm.prepare(digits(5))
    other = {**batch, "label": (batch["label"] + 1) % 10}
    with torch.no_grad():
        assert not torch.equal(algorithm.encode(batch)[0], algorithm.encode(other)[0])
        code = torch.zeros(20, 3)
        decoded = algorithm.decode(code)
        assert torch.equal(decoded[:10], decoded[10:])  # all classes in turn
        assert not torch.equal(decoded[0], decoded[1])
        three = algorithm.sample(4, torch.Generator().manual_seed(0), label=3).data
        codes = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(three, algorithm.decode(codes, torch.full((4,), 3)))
        samples = algorithm.figures(batch)["samples"]
        assert (samples.columns, samples.data.shape) == (10, (80, 1, 8, 8))  # a column for each class
    assert algorithm.inference_module() is None


def test_one_hot() -> None:
    assert torch.equal(one_hot(torch.tensor([2, 0]), 3), torch.tensor([[0.0, 0, 1], [1, 0, 0]]))


# --- what is looked at -----------------------------------------------------------------------------------------------


def test_active_units_and_the_alarm(caplog: pytest.LogCaptureFixture) -> None:
    algorithm = small()
    means = torch.stack((torch.linspace(-1, 1, 50), torch.linspace(-0.1, 0.1, 50), torch.full((50,), 5.0)), 1)
    metrics, figures = algorithm.summarize({"_mean": means})
    assert (float(metrics["active_units"]), float(metrics["alarm_posterior_collapse"])) == (1, 0)
    assert not figures
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            metrics, figures = algorithm.summarize({"_mean": torch.zeros(50, 3)})
    assert (float(metrics["active_units"]), float(metrics["alarm_posterior_collapse"])) == (0, 1)
    assert "0 of 3 latent variables" in figures["alarms"].text and "free_bits" in figures["alarms"].text
    assert len(caplog.records) == 1  # once in a run


@pytest.mark.parametrize(("active", "raised"), [(0, True), (1, True), (2, False), (8, False)])
def test_a_quarter_of_the_units_is_enough(active: int, raised: bool) -> None:
    assert collapse(active, 8).raised is raised
    assert collapse(1, 1).raised is False


def test_the_decoded_mean_has_the_squared_error() -> None:
    algorithm = small()
    batch = algorithm.prepare(digits(6))
    with torch.no_grad():
        rebuilt = algorithm.decode(algorithm.encoder(batch["image"])[0])
        found = algorithm.evaluate(batch)["squared_error"]
    torch.testing.assert_close(found, (rebuilt - batch["image"]).square().sum((1, 2, 3)))


def test_pictures_of_the_codes() -> None:
    algorithm = small(latent_size=2)
    with torch.no_grad():
        algorithm.encoder.network.layers[-1].weight[1].mul_(20)  # the second code tells more
        batch = algorithm.prepare(digits(20))
        shown = algorithm.figures(batch)
        mean, _ = algorithm.encode(batch)
        corner = algorithm.decode(torch.special.ndtri(torch.tensor([[0.5 / 16, 1 - 0.5 / 16]])))
        lowest = mean[:1].clone()
        lowest[0, 1] = -2.5
        first, last = algorithm.decode(mean[:1]), algorithm.decode(mean[1:2])
        start = algorithm.decode(lowest)
    assert shown["manifold"].data.shape == (256, 1, 8, 8)
    assert [name for name, figure in shown.items() if figure.animate] == ["samples", "manifold"]
    torch.testing.assert_close(shown["manifold"].data[:1], corner)  # upper left: first code low, second high
    torch.testing.assert_close(shown["traversals"].data[:1], start)
    assert shown["traversals"].data.shape == (18, 1, 8, 8)
    torch.testing.assert_close(shown["interpolations"].data[[0, 8]], torch.cat((first, last)))
    torch.testing.assert_close(shown["latent_means"].data, mean.flip(1))
    assert torch.equal(shown["latent_means"].groups, batch["label"])


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "changes", "sentence"),
    [
        (POINTS, {"likelihood": "categorical"}, r"algorithm\.likelihood"),
        (POINTS, {"likelihood": "gaussian", "network": "conv"}, r"algorithm\.network"),
        (POINTS, {"likelihood": "gaussian", "conditional": True}, r"algorithm\.conditional"),
        (LABELLED, {"network": "conv", "hidden_sizes": ()}, r"algorithm\.hidden_sizes"),
        (LABELLED, {"training_samples": 5, "beta": 2.0}, r"algorithm\.training_samples"),
        (LABELLED, {"training_samples": 5, "free_bits": 0.1}, r"algorithm\.training_samples"),
    ],
)
def test_settings_that_do_not_fit(spec: Any, changes: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        VAE(VAEConfig(**changes), spec)


@pytest.mark.parametrize(("conditional", "label"), [(False, 3), (True, 10), (True, -1), (True, True)])
def test_labels_that_cannot_be_sampled(conditional: bool, label: Any) -> None:
    with pytest.raises(UserError, match="sample: label"):
        small(conditional=conditional).sample(2, torch.Generator(), label=label)
