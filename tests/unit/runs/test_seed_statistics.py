"""Interquartile means and their bootstrap intervals against SciPy and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from rayloom.runs.seed_statistics import interquartile_interval, interquartile_mean


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 11, 50])
def test_the_mean_is_scipys_trimmed_mean(count: int) -> None:
    scores = np.random.default_rng(count).normal(size=(6, count))
    np.testing.assert_allclose(interquartile_mean(scores), stats.trim_mean(scores, 0.25, axis=1), rtol=1e-12)


def test_the_mean_by_hand_leaves_outliers_out() -> None:
    assert float(interquartile_mean(np.array([100.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, -100.0]))) == 3.5


def test_the_interval_is_that_of_scipys_stratified_bootstrap() -> None:
    generator = np.random.default_rng(0)
    tasks = [generator.normal(size=10), 2 + generator.normal(size=7)]
    found = interquartile_interval([list(task) for task in tasks], repetitions=20_000)

    def statistic(first: np.ndarray, second: np.ndarray, axis: int) -> np.ndarray:
        return interquartile_mean(np.moveaxis(np.concatenate((first, second), axis=axis), axis, -1))

    peer = stats.bootstrap(tasks, statistic, n_resamples=20_000, vectorized=True, method="percentile", rng=1)
    assert found.mean == float(stats.trim_mean(np.concatenate(tasks), 0.25)) and found.runs == 17
    assert found.low == pytest.approx(peer.confidence_interval.low, abs=0.03)
    assert found.high == pytest.approx(peer.confidence_interval.high, abs=0.03)


def test_strata_are_resampled_by_themselves() -> None:
    # Within each task nothing varies: only a bootstrap over all scores together would have an interval.
    found = interquartile_interval([[0.0] * 5, [1.0] * 5])
    assert (found.mean, found.low, found.high) == (0.5, 0.5, 0.5)
    mixed = interquartile_interval([[0.0] * 5 + [1.0] * 5])
    assert mixed.low < 0.2 and mixed.high > 0.8


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(3)
    found = [interquartile_interval([list(generator.normal(size=30))], 500, seed) for seed in range(200)]
    covered = np.mean([each.low <= 0 <= each.high for each in found])
    assert 0.87 <= covered <= 0.99


def test_one_score_is_its_own_interval_and_equal_seeds_agree() -> None:
    assert tuple(interquartile_interval([[2.5], []])) == (2.5, 2.5, 2.5, 1)
    scores = [[1.0, 2.0, 4.0, 9.0, 3.0]]
    assert interquartile_interval(scores) == interquartile_interval(scores)
