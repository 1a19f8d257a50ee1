"""Autoencoders learn the digits: eight principal components have a squared error of 1.57, one mean digit 4.7."""

from __future__ import annotations

from pathlib import Path

import pytest

import rayloom

PCA_ERROR = 1.57


def reached(name: str, tmp_path: Path, *overrides: str) -> dict[str, float]:
    quiet = ("tracking.enabled=false", "tracking.pictures=false", f"output={tmp_path}", "evaluate.every=null")
    result = rayloom.run(name, *overrides, "checkpoint.best=null", *quiet, local=True)
    return {metric.removeprefix("evaluate/"): value for metric, value in result.metrics.items()}


def test_a_vae_uses_all_its_codes_and_beats_as_many_principal_components(tmp_path: Path) -> None:
    found = reached("vae_digits", tmp_path, "stop.epochs=60")
    assert found["squared_error"] < PCA_ERROR
    assert (found["active_units"], found["alarm_posterior_collapse"]) == (8, 0)
    assert found["loss"] > found["grey_bound_iw5"] > found["grey_bound_iw50"]


def test_a_divergence_that_is_too_dear_collapses_the_posterior_and_is_told(tmp_path: Path) -> None:
    dear = ("stop.epochs=5", "algorithm.beta=20", "algorithm.kl_warmup_updates=0")
    assert reached("vae_digits", tmp_path, *dear, "algorithm.free_bits=0")["alarm_posterior_collapse"] == 1
    assert reached("vae_digits", tmp_path, *dear)["alarm_posterior_collapse"] == 0  # its free bits keep the codes alive


def test_labels_save_nats(tmp_path: Path) -> None:
    assert (
        reached("conditional_vae_digits", tmp_path, "stop.epochs=20")["grey_bound_iw50"] < 23.2
    )  # 24.6 without labels


def test_the_importance_weighted_loss_tightens_its_own_bound(tmp_path: Path) -> None:
    found = reached("iwae_digits", tmp_path, "stop.epochs=20")
    assert found["grey_bound_iw50"] < 25.3
    assert found["loss"] - found["grey_bound_iw5"] > 0.5  # the evidence lower bound is no longer what is trained


def test_a_denoising_autoencoder_removes_half_of_the_noise(tmp_path: Path) -> None:
    found = reached("denoising_autoencoder_digits", tmp_path, "stop.epochs=15")
    assert found["denoised_error"] < 0.55 * found["corrupted_error"]


def test_a_sparse_autoencoder_is_quiet(tmp_path: Path) -> None:
    found = reached("sparse_autoencoder_digits", tmp_path, "stop.epochs=20")
    assert found["activity"] < 0.25 and found["squared_error"] < 3.0


@pytest.mark.parametrize(
    ("name", "epochs", "metric", "most"),
    [("autoencoder_digits", 40, "squared_error", 1.5), ("convolutional_vae_digits", 18, "grey_bound_iw50", 27.0)],
)
def test_digits_are_rebuilt(name: str, epochs: int, metric: str, most: float, tmp_path: Path) -> None:
    assert reached(name, tmp_path, f"stop.epochs={epochs}")[metric] < most
