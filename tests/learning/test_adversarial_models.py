"""Adversarial models learn: all modes of a ring and of a grid, and digits of the class that is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import rayloom
from rayloom.config.load import from_tree
from rayloom.datasets import load as load_dataset
from rayloom.runs.observer import Result


def train(name: str, output: Path, *overrides: str) -> Result:
    quiet = ("tracking.enabled=false", "tracking.pictures=false", f"output={output}", "evaluate.every=null")
    return rayloom.run(name, *overrides, *quiet, local=True)


def test_a_gan_finds_all_modes_of_the_ring(tmp_path: Path) -> None:
    short = ("stop.updates=2000", "learner.batch_size=128", "algorithm.average=0.99")
    metrics = train("gan_gaussian_ring", tmp_path, *short).metrics
    assert metrics["evaluate/modes_covered"] == 8
    assert metrics["evaluate/good_fraction"] >= 0.25
    assert metrics["evaluate/mode_divergence"] <= 0.25
    assert not any(value for name, value in metrics.items() if "alarm" in name)


def closest_class(images: torch.Tensor) -> torch.Tensor:
    """Return the digit whose mean training image is closest to each image in 0..1."""
    train = load_dataset("digits", 0).train.columns
    means = torch.stack([train["image"][train["label"] == digit].float().mean(0) / 255 for digit in range(10)])
    return torch.cdist(images.flatten(1), means.flatten(1)).argmin(1)


def test_a_conditional_gan_draws_the_digit_that_is_asked_for(tmp_path: Path) -> None:
    small = "{kind: mlp, hidden_sizes: [128]}"
    parts = ("algorithm.latent_size=8", f"algorithm.generator={small}", f"algorithm.critic={small}")
    short = ("stop.updates=1000", "learner.optimizer.learning_rate=2e-3", "algorithm.average=0.97")
    result = train("conditional_gan_digits", tmp_path, *parts, *short)
    trained = rayloom.load(result.run_dir.name, output=str(tmp_path))
    hits = []
    for digit in range(10):
        images = trained.sample(40, label=digit).data
        assert images is not None
        hits.append((closest_class(images) == digit).float().mean())
    accuracy = float(torch.stack(hits).mean())
    assert accuracy >= 0.8, accuracy
    assert 0.5 < result.metrics["evaluate/diversity"] < 1.5


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(5))
def test_wgan_gp_covers_the_grid(seed: int, tmp_path: Path) -> None:
    metrics = train("wgan_gp_gaussian_grid", tmp_path, f"seed={seed}").metrics
    assert metrics["evaluate/modes_covered"] == 25
    assert metrics["evaluate/good_fraction"] >= 0.9


_NETWORKS: dict[str, dict[str, Any]] = {
    "dcgan": {"kind": "conv", "channels": 16, "normalization": "batch"},
    "constant filters": {"kind": "conv", "channels": 16, "doubling": False},
    "mlp": {"kind": "mlp", "hidden_sizes": [128, 128]},
}
_LOSSES = {
    "gan:GAN": {"critic_steps": 1},
    "wgan:WGAN": {"critic_steps": 5, "clip": 0.05},
    "wgan_gp:WGANGP": {"critic_steps": 5},
}


def robustness(path: str, network: str, output: Path) -> Result:
    """Train one of the nine pairs on the digits, with the same optimiser for all."""
    generator = _NETWORKS[network]
    # The penalty is one example's: a critic with batch norm has none.
    critic = {**generator, "normalization": "layer"} if network == "dcgan" and "gp" in path else generator
    own = {"import": f"rayloom_generative.adversarial.{path}", "latent_size": 32, **_LOSSES[path]}
    tree = {
        "name": "robustness",
        "algorithm": {**own, "generator": generator, "critic": critic, "betas": [0.5, 0.9]},
        "source": {"kind": "dataset", "dataset": "digits"},
        "learner": {"batch_size": 64, "optimizer": {"kind": "adam", "learning_rate": 5e-4}},
        "stop": {"updates": 600},
    }
    tracking = {"enabled": False, "pictures": False}
    return rayloom.run(from_tree({**tree, "tracking": tracking, "output": str(output)}), local=True)


@pytest.mark.full
@pytest.mark.parametrize("network", _NETWORKS)
@pytest.mark.parametrize("path", [path for path in _LOSSES if "wgan" in path])
def test_no_wasserstein_gan_fails_whatever_its_networks(path: str, network: str, tmp_path: Path) -> None:
    metrics = robustness(path, network, tmp_path).metrics
    assert metrics["evaluate/diversity"] > 0.6
    assert not any(value for name, value in metrics.items() if "alarm" in name)


@pytest.mark.full
def test_a_gan_without_batch_norm_and_with_constant_filters_collapses_and_says_so(tmp_path: Path) -> None:
    metrics = robustness("gan:GAN", "constant filters", tmp_path).metrics
    assert metrics["evaluate/alarm_mode_collapse"] == 1
