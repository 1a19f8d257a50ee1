"""Expectation maximisation against scikit-learn's from the same start, and its monotone likelihood."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as Reference

from rayloom.contract import TensorSpec
from rayloom.datasets import Dataset
from rayloom.errors import UserError
from rayloom_generative.mixtures.gaussian_mixture import GaussianMixture, GaussianMixtureConfig


def points() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(3, 4, 4, generator=generator)
    centres = 2 * torch.randn(3, 4, generator=generator)
    chosen = torch.randint(3, (600,), generator=generator)
    noise = torch.randn(600, 1, 4, generator=generator)
    return centres[chosen] + (noise @ mixing[chosen])[:, 0]


def spec(size: int) -> dict[str, TensorSpec]:
    return {"point": TensorSpec(shape=(size,), dtype=torch.float32)}


def table(values: torch.Tensor) -> Any:
    rows = {"point": values}
    return Dataset(rows, rows, rows, spec(values.shape[1]), "points").train


def started(**changes: Any) -> tuple[GaussianMixture, torch.Tensor]:
    data = points()
    torch.manual_seed(1)
    algorithm = GaussianMixture(GaussianMixtureConfig(**{"components": 3, **changes}), spec(4))
    algorithm.initialize(table(data))
    return algorithm, data


def step(algorithm: GaussianMixture, data: torch.Tensor) -> float:
    parts = [algorithm.expect({"point": part}) for part in torch.split(data, 250)]  # a pass in three batches
    sums = {name: sum(part.sums[name] for part in parts) for name in parts[0].sums}
    algorithm.maximise(sums, float(len(data)))
    return float(torch.cat([part.metrics["log_likelihood"] for part in parts]).mean())


@pytest.mark.parametrize(("covariance", "name"), [("full", "full"), ("diagonal", "diag")])
def test_equals_scikit_learn_from_the_same_start(covariance: Any, name: str) -> None:
    algorithm, data = started(covariance=covariance)
    start = algorithm.covariances.numpy()
    precisions = np.linalg.inv(start) if covariance == "full" else 1 / start
    reference = Reference(
        3,
        covariance_type=name,
        tol=0,
        reg_covar=1e-6,
        max_iter=12,
        weights_init=algorithm.weights.numpy().copy(),
        means_init=algorithm.means.numpy().copy(),
        precisions_init=precisions,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        reference.fit(data.double().numpy())
    for _ in range(12):
        step(algorithm, data)
    np.testing.assert_allclose(algorithm.weights.numpy(), reference.weights_, rtol=1e-7)
    np.testing.assert_allclose(algorithm.means.numpy(), reference.means_, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(algorithm.covariances.numpy(), reference.covariances_, rtol=1e-5, atol=1e-7)
    found = algorithm.evaluate({"point": data})["nll"]
    np.testing.assert_allclose(-found.numpy(), reference.score_samples(data.double().numpy()), rtol=1e-6)


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
@pytest.mark.parametrize("start", ["plus_plus", "first_rows"])
def test_no_pass_lowers_the_likelihood(covariance: Any, start: Any) -> None:
    algorithm, data = started(covariance=covariance, start=start, components=5, ridge=1e-9)
    history = [step(algorithm, data) for _ in range(25)]
    assert all(after >= before - 1e-9 for before, after in itertools.pairwise(history))
    assert history[-1] > history[0] + 0.1


def test_the_first_variance_is_as_wide_as_the_gaps() -> None:
    data = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 2.0], [4.0, 2.0]])
    algorithm = GaussianMixture(GaussianMixtureConfig(components=2, start="first_rows"), spec(2))
    algorithm.initialize(table(data))
    assert algorithm.means.tolist() == [[0, 0], [4, 0]]
    # The last two points lie at a squared distance of 4 from a mean: 8 over 4 points and 2 coordinates.
    torch.testing.assert_close(algorithm.covariances, (1 + 1e-6) * torch.eye(2).double().expand(2, 2, 2))


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_samples_follow_the_mixture(covariance: Any) -> None:
    algorithm, data = started(covariance=covariance)
    for _ in range(10):
        step(algorithm, data)
    drawn = algorithm.sample(40_000, torch.Generator().manual_seed(0)).data
    assert drawn is not None
    mean = algorithm.weights @ algorithm.means
    inner = algorithm.covariances if covariance == "full" else algorithm.covariances.diag_embed()
    centred = algorithm.means - mean
    total = torch.einsum("k,kij->ij", algorithm.weights, inner) + (centred.T * algorithm.weights) @ centred
    torch.testing.assert_close(drawn.mean(0).double(), mean, rtol=0, atol=0.05)
    torch.testing.assert_close(drawn.T.cov().double(), total, rtol=0.03, atol=0.03 * float(total.max()))
    again = algorithm.sample(40_000, torch.Generator().manual_seed(0)).data
    assert torch.equal(drawn, again)


def test_components_in_use() -> None:
    algorithm, _ = started(components=4)
    algorithm.weights.copy_(torch.tensor([0.5, 0.5, 0.0, 0.0]))
    metrics, _ = algorithm.summarize({})
    assert float(metrics["components_used"]) == pytest.approx(2)


def test_points_of_the_plane_are_drawn_in_groups() -> None:
    algorithm = GaussianMixture(GaussianMixtureConfig(components=2), spec(2))
    algorithm.means.copy_(torch.tensor([[-3.0, 0.0], [3.0, 0.0]]))
    figure = algorithm.figures({"point": torch.tensor([[-2.0, 0], [4, 1], [-5, 0]])})["components"]
    assert figure.kind == "points" and figure.groups.tolist() == [0, 1, 0]


def test_more_components_than_examples() -> None:
    algorithm = GaussianMixture(GaussianMixtureConfig(components=9), spec(2))
    with pytest.raises(UserError, match="9 components need as many examples, and there are 4"):
        algorithm.initialize(table(torch.rand(4, 2)))
