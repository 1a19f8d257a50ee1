"""Mixtures find what is known to be in the data."""

from __future__ import annotations

from pathlib import Path

import pytest

import rayloom


@pytest.mark.parametrize(
    ("name", "overrides", "metric", "most"),
    [
        # -2.01 nats is the mixture's own entropy; a mode too few costs 0.03 at least.
        ("gaussian_mixture_gaussian_grid", ("stop.epochs=12",), "nll", -1.99),
        ("gaussian_mixture_gaussian_grid", ("stop.epochs=12", "algorithm.covariance=diagonal"), "nll", -1.99),
        ("k_means_digits", (), "distortion", 2.70),  # 4.7 around one centre
        ("pca_digits", (), "reconstruction", 1.60),
        ("sparse_coding_digits", ("stop.epochs=10",), "objective", 9.5),  # 19.9 with atoms at random
    ],
)
def test_what_is_in_the_data_is_found(
    name: str, overrides: tuple[str, ...], metric: str, most: float, tmp_path: Path
) -> None:
    quiet = ("tracking.enabled=false", "tracking.pictures=false", f"output={tmp_path}", "evaluate.every=null")
    small = ("source.dataset={kind: gaussian-grid, train_size: 20000}",) if "grid" in name else ()
    result = rayloom.run(name, *small, *overrides, *quiet, local=True)
    assert result.metrics[f"evaluate/{metric}"] <= most
    if name == "k_means_digits":
        assert result.metrics["evaluate/purity"] > 0.7
