"""k-means against scikit-learn's from the same start, and where it begins."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans as Reference
from sklearn.exceptions import ConvergenceWarning

from rayloom import datasets
from rayloom.contract import TensorSpec
from rayloom.datasets import Dataset
from rayloom.errors import UserError
from rayloom_generative.equations.k_means import plus_plus, squared_distances
from rayloom_generative.mixtures.k_means import KMeans, KMeansConfig

PLANE = {"point": TensorSpec(shape=(2,), dtype=torch.float32)}
IMAGES = {
    "image": TensorSpec(shape=(1, 8, 8), dtype=torch.uint8),
    "label": TensorSpec(shape=(), dtype=torch.int64, num_values=10),
}


def table(values: torch.Tensor) -> Any:
    rows = {"point": values}
    return Dataset(rows, rows, rows, PLANE, "points").train


def test_equals_scikit_learn_from_the_same_start() -> None:
    digits = datasets.load("digits", 0)
    torch.manual_seed(0)
    algorithm = KMeans(KMeansConfig(clusters=10), IMAGES)
    algorithm.initialize(digits.train)
    start, images = algorithm.centres.numpy().copy(), digits.train["image"]
    for _ in range(7):
        parts = [algorithm.gather({"image": part}) for part in torch.split(images, 500)]
        sums = {name: sum(part.sums[name] for part in parts) for name in parts[0].sums}
        algorithm.move(sums, float(len(images)))
    data = (images.flatten(1) / 255).double().numpy()  # divided in single precision, as ours
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        reference = Reference(10, init=start, n_init=1, max_iter=7, tol=0, algorithm="lloyd").fit(data)
    np.testing.assert_allclose(algorithm.centres.numpy(), reference.cluster_centers_, rtol=1e-7, atol=1e-12)
    found = algorithm.evaluate({"image": images})["distortion"].sum()
    assert float(found) == pytest.approx(reference.inertia_, rel=1e-9)


def test_distances_by_hand() -> None:
    found = squared_distances(torch.tensor([[0.0, 0], [3, 4]]), torch.tensor([[0.0, 0], [3, 0]]))
    assert found.tolist() == [[0, 9], [25, 16]]


def test_the_start_covers_clusters_that_are_far_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    places = 100 * torch.arange(8.0)
    data = torch.stack((places.repeat(50), torch.zeros(400)), 1) + 0.1 * torch.randn(400, 2, generator=generator)
    chosen = plus_plus(data, 8, generator)
    assert sorted(round(float(value) / 100) for value in chosen[:, 0]) == list(range(8))
    assert bool((torch.cdist(chosen, data).min(1).values == 0).all())  # they are points of the data


def test_the_start_follows_the_seed_and_bears_equal_points() -> None:
    data = torch.rand(100, 2)
    first, again, other = (plus_plus(data, 5, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert plus_plus(torch.ones(4, 2), 3).tolist() == [[1, 1]] * 3


def test_a_centre_without_points_stays() -> None:
    algorithm = KMeans(KMeansConfig(clusters=2, start="first_rows"), PLANE)
    algorithm.initialize(table(torch.tensor([[0.0, 0], [0, 0], [2, 2]])))
    algorithm.centres[1] = 50.0
    found = algorithm.gather({"point": torch.tensor([[0.0, 0], [0, 0], [2, 2]])})
    shift = algorithm.move(found.sums, 3.0)["shift"]
    torch.testing.assert_close(algorithm.centres, torch.tensor([[2 / 3, 2 / 3], [50, 50]]).double())
    assert float(shift) == pytest.approx((2 * (2 / 3) ** 2) ** 0.5)
    assert found.metrics["distortion"].tolist() == [0, 0, 8]


def test_purity_by_hand() -> None:
    algorithm = KMeans(KMeansConfig(clusters=2), IMAGES)
    clusters, labels = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([3, 3, 4, 7, 8])
    metrics, figures = algorithm.summarize({"_cluster": clusters, "_label": labels})
    assert float(metrics["purity"]) == pytest.approx(3 / 5)
    assert figures["clusters_and_labels"].data[0, 3] == 2


def test_more_clusters_than_examples() -> None:
    with pytest.raises(UserError, match="10 components need as many examples"):
        KMeans(KMeansConfig(), PLANE).initialize(table(torch.rand(4, 2)))
