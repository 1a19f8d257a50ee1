"""Distances of features and coverage against SciPy and NumPy, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from rayloom_generative.evaluation.distances import (
    frechet_distance,
    kernel_distance,
    nearest,
    precision_and_recall,
)
from rayloom_generative.evaluation.diversity import mean_pairwise_distance, relative_diversity


@pytest.fixture
def features() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(5, 5, generator=generator)
    first = torch.randn(60, 5, generator=generator) @ mix
    return first, 1.3 * torch.randn(41, 5, generator=generator) + 0.5


def test_the_frechet_distance_is_that_of_scipys_root(features: tuple[torch.Tensor, torch.Tensor]) -> None:
    first, second = (each.double().numpy() for each in features)
    covariances = [np.cov(each.T) for each in (first, second)]
    expected = np.square(first.mean(0) - second.mean(0)).sum() + np.trace(
        covariances[0] + covariances[1] - 2 * sqrtm(covariances[0] @ covariances[1]).real
    )
    assert float(frechet_distance(*features)) == pytest.approx(expected, rel=1e-9)
    assert float(frechet_distance(*reversed(features))) == pytest.approx(expected, rel=1e-9)
    assert float(frechet_distance(features[0], features[0])) == pytest.approx(0, abs=1e-9)


def test_the_frechet_distance_of_shifted_and_flat_features_by_hand() -> None:
    points = torch.tensor([[0.0, 0.0], [2.0, 0.0]])  # no spread in the second coordinate
    assert float(frechet_distance(points, points + torch.tensor([3.0, 4.0]))) == pytest.approx(25)
    # One coordinate: (m1 - m2)^2 + (s1 - s2)^2, with standard deviations sqrt(2) and 3 sqrt(2).
    line = torch.tensor([[0.0], [2.0]])
    assert float(frechet_distance(line, 3 * line)) == pytest.approx(4 + (2 * 2**0.5) ** 2)


def test_the_kernel_distance_pair_by_pair(features: tuple[torch.Tensor, torch.Tensor]) -> None:
    first, second = (each.double().numpy() for each in features)

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / 5 + 1) ** 3)

    def within(rows: np.ndarray) -> float:
        return float(np.mean([kernel(x, y) for i, x in enumerate(rows) for j, y in enumerate(rows) if i != j]))

    between = float(np.mean([kernel(x, y) for x in first for y in second]))
    assert float(kernel_distance(*features)) == pytest.approx(within(first) + within(second) - 2 * between, rel=1e-9)


def test_the_kernel_distance_is_unbiased() -> None:
    generator = torch.Generator().manual_seed(1)
    draws = [
        float(kernel_distance(*torch.randn(2, 20, 3, generator=generator, dtype=torch.float64))) for _ in range(400)
    ]
    assert np.mean(draws) == pytest.approx(0, abs=3 * np.std(draws) / 20)
    assert min(draws) < 0


@pytest.mark.parametrize("neighbors", [1, 3])
def test_precision_and_recall_member_by_member(features: tuple[torch.Tensor, torch.Tensor], neighbors: int) -> None:
    data, samples = (each.double().numpy() for each in features)

    def share_inside(queries: np.ndarray, members: np.ndarray) -> float:
        radii = [np.sort(np.linalg.norm(members - member, axis=1))[neighbors] for member in members]
        inside = [
            any(np.linalg.norm(query - member) <= radius for member, radius in zip(members, radii, strict=True))
            for query in queries
        ]
        return float(np.mean(inside))

    found = precision_and_recall(*features, neighbors=neighbors)
    assert float(found.precision) == pytest.approx(share_inside(samples, data))
    assert float(found.recall) == pytest.approx(share_inside(data, samples))


def test_a_collapsed_model_has_precision_and_no_recall() -> None:
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(200, 2, generator=generator)
    collapsed = 0.01 * torch.randn(200, 2, generator=generator)
    found = precision_and_recall(data, collapsed)
    assert float(found.precision) == 1.0 and float(found.recall) < 0.05
    same = precision_and_recall(data, data)
    assert [float(value) for value in same] == [1.0, 1.0]
    far = precision_and_recall(data, data + 100)
    assert [float(value) for value in far] == [0.0, 0.0]


def test_nearest_members_by_hand() -> None:
    members = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    assert nearest(torch.tensor([[1.0, 8.0], [4.0, 1.0], [10.0, 0.0]]), members).tolist() == [2, 0, 1]


def test_diversity_by_hand() -> None:
    square = torch.tensor([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]])
    assert float(mean_pairwise_distance(square)) == pytest.approx((3 + 4 + 5) / 3)
    assert float(relative_diversity(square / 2, square)) == pytest.approx(0.5)
    assert float(mean_pairwise_distance(square[:1])) == 0.0
