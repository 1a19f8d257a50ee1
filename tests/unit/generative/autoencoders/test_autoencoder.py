"""The autoencoder against principal components, its corruptions, and its sparsity against the penalty of a batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rayloom import datasets
from rayloom.contract import Phase, Rule, TensorSpec
from rayloom.errors import UserError
from rayloom_generative.autoencoders.autoencoder import Autoencoder, AutoencoderConfig, bernoulli_divergence

IMAGES = {"image": TensorSpec(shape=(1, 8, 8), dtype=torch.uint8)}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def points_spec(size: int) -> dict[str, TensorSpec]:
    return {"point": TensorSpec(shape=(size,), dtype=torch.float32)}


def images(count: int = 50) -> torch.Tensor:
    return datasets.load("digits", 0).train["image"][:count]


def small(**changes: Any) -> Autoencoder:
    return Autoencoder(AutoencoderConfig(**{"code_size": 6, "hidden_sizes": (), **changes}), IMAGES)


def test_a_linear_autoencoder_learns_the_principal_plane() -> None:
    points = torch.randn(400, 3) @ torch.randn(3, 6) + 0.1 * torch.randn(400, 6) + 2
    algorithm = Autoencoder(AutoencoderConfig(code_size=2, hidden_sizes=()), points_spec(6))
    batch = algorithm.prepare({"point": points})
    optimizer = torch.optim.LBFGS(algorithm.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        error = algorithm.loss(batch).per_example.mean()
        error.backward()
        return error

    optimizer.step(closure)
    spectrum = torch.linalg.svdvals(points - points.mean(0)).square() / 400
    best = float(spectrum[2:].sum())  # Eckart and Young: no plane is nearer
    with torch.no_grad():
        reached = float(algorithm.evaluate(batch)["squared_error"].mean())
    assert best - 1e-4 < reached < 1.01 * best


@pytest.mark.parametrize("squared", [True, False])
def test_losses_by_hand(squared: bool) -> None:
    algorithm = small(reconstruction="squared_error" if squared else "cross_entropy")
    batch = algorithm.prepare({"image": images(4)})
    decoded, clean = algorithm.decoder(algorithm.encoder(batch["clean"])), images(4).flatten(1) / 255
    shares = decoded.sigmoid()
    cross_entropy = -(clean * shares.log() + (1 - clean) * (1 - shares).log()).sum(1)
    expected = (decoded - clean).square().sum(1) if squared else cross_entropy
    torch.testing.assert_close(algorithm.loss(batch).per_example, expected, rtol=1e-4, atol=1e-4)
    rebuilt = decoded if squared else shares
    found = algorithm.evaluate(batch)["squared_error"]
    torch.testing.assert_close(found, (rebuilt - clean).square().sum(1))


# --- corruption ------------------------------------------------------------------------------------------------------


def corrupted(kind: str, level: float) -> torch.Tensor:
    algorithm = Autoencoder(AutoencoderConfig(corruption=kind, corruption_level=level), points_spec(40))
    return algorithm.prepare({"point": torch.full((2000, 40), 0.25)})["corrupted"]


def test_masking() -> None:
    found = corrupted("masking", 0.3)
    assert set(found.unique().tolist()) == {0.0, 0.25}
    assert float((found == 0).float().mean()) == pytest.approx(0.3, abs=0.01)


def test_salt_and_pepper() -> None:
    found = corrupted("salt_and_pepper", 0.4)
    assert set(found.unique().tolist()) == {0.0, 0.25, 1.0}
    assert float((found == 0).float().mean()) == pytest.approx(0.2, abs=0.01)
    assert float((found == 1).float().mean()) == pytest.approx(0.2, abs=0.01)


def test_gaussian_noise() -> None:
    found = corrupted("gaussian", 0.5) - 0.25
    assert float(found.mean()) == pytest.approx(0, abs=0.01)
    assert float(found.std()) == pytest.approx(0.5, abs=0.01)


def test_the_clean_example_is_rebuilt() -> None:
    algorithm = small(corruption="masking", corruption_level=0.9)
    batch = algorithm.prepare({"image": images()})
    torch.testing.assert_close(batch["clean"], images().flatten(1) / 255)
    decoded = algorithm.decoder(algorithm.encoder(batch["corrupted"]))
    torch.testing.assert_close(algorithm.loss(batch).per_example, (decoded - batch["clean"]).square().sum(1))
    found = algorithm.evaluate(batch)
    torch.testing.assert_close(found["denoised_error"], (decoded - batch["clean"]).square().sum(1))
    torch.testing.assert_close(found["corrupted_error"], (batch["corrupted"] - batch["clean"]).square().sum(1))


# --- sparsity --------------------------------------------------------------------------------------------------------


def test_the_penalty_has_value_and_gradient_of_that_of_the_batch() -> None:
    algorithm = small(code_activation="logistic", sparsity_weight=2.0, sparsity=0.1)
    batch = algorithm.prepare({"image": images()})
    rule, phase = algorithm.phases()
    assert isinstance(rule, Rule) and isinstance(phase, Phase)
    with torch.no_grad():
        rule.apply(rule.gather(batch).sums, 50.0)
    parameters = list(algorithm.parameters())
    loss = phase.loss(batch).per_example.mean()
    found = torch.autograd.grad(loss, parameters)
    code = algorithm.encoder(batch["clean"])
    error = (algorithm.decoder(code) - batch["clean"]).square().sum(1).mean()
    mean = code.mean(0)
    penalty = (0.1 * (0.1 / mean).log() + 0.9 * (0.9 / (1 - mean)).log()).sum()
    expected = torch.autograd.grad(error + 2 * penalty, parameters)
    assert float(loss) == pytest.approx(float(error + 2 * penalty), rel=1e-5)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_divergence_of_bits() -> None:
    found = bernoulli_divergence(0.5, torch.tensor([0.5, 0.25]))
    assert found.tolist() == pytest.approx([0, 0.5 * torch.tensor(4 / 3).log().item()])


def test_without_sparsity_there_is_no_rule() -> None:
    assert [type(step) for step in small().phases()] == [Phase]


def test_pictures_and_codes() -> None:
    algorithm = small()
    batch = algorithm.prepare({"image": images(20)})
    with torch.no_grad():
        shown = algorithm.figures(batch)
        module = algorithm.inference_module()
        torch.testing.assert_close(module(images(20)), algorithm.encoder(batch["clean"]))
    assert set(shown) == {"codes", "reconstructions", "interpolations"}
    assert shown["reconstructions"].data.shape == (32, 1, 8, 8)


@pytest.mark.parametrize(
    ("spec", "changes", "sentence"),
    [
        (IMAGES, {"sparsity_weight": 1.0}, r"algorithm\.code_activation"),
        (points_spec(3), {"reconstruction": "cross_entropy"}, r"algorithm\.reconstruction"),
        (IMAGES, {"corruption": "masking", "corruption_level": 1.5}, r"algorithm\.corruption_level"),
    ],
)
def test_settings_that_do_not_fit(spec: Any, changes: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Autoencoder(AutoencoderConfig(**changes), spec)
