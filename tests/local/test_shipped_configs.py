"""Every shipped config is parsed, shown and briefly run."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import rayloom
from rayloom.config.load import load, shipped_configs
from shipped_runs import run_briefly

NAMES = sorted(shipped_configs())
STUDIES = sorted(name for name, path in shipped_configs().items() if path.parent.name == "search")


def test_the_promised_configs_are_there() -> None:
    promised = {
        "ppo_cartpole", "ppo_cartpole_ray", "dqn_cartpole", "impala_cartpole", "impala_cartpole_ray",
        "apex_dqn_cartpole", "softmax_regression_fashion_mnist",
        "softmax_regression_digits", "lenet5_fashion_mnist", "lenet5_digits", "vae_fashion_mnist", "vae_digits",
        "wgan_gp_gaussian_grid", "wgan_gp_digits", "gan_gaussian_ring", "wgan_gaussian_grid", "dcgan_digits",
        "dcgan_fashion_mnist", "conditional_gan_digits", "grid_softmax_regression_digits", "tpe_ppo_cartpole",
        "gp_lenet5_digits", "architecture_digits", "population_mlp_digits",
    }  # fmt: skip
    assert promised <= set(NAMES)


LONG = {
    "alphago_go5x5", "supervised_policy_go9x9", "ppo_pong",
    "alphazero_go5x5", "alphazero_go9x9", "alphazero_connect_four", "reinforce_self_play_go9x9", "seq2seq_catalogues",
}  # fmt: skip
"""Whole games, and large vocabularies: up to a minute each. The short suite has smaller ones of the same classes."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.full if name in LONG else ())
        for name in NAMES
        if "fashion_mnist" not in name
    ],
)
def test_a_shipped_config_runs(name: str, tmp_path: Path) -> None:
    run_briefly(name, tmp_path)


@pytest.mark.parametrize("name", STUDIES)
def test_a_shipped_study_runs(name: str, tmp_path: Path) -> None:
    settings = load(name).search
    assert settings is not None
    # One trial at random, so that the sampler proposes the others.
    startup = "search.sampler_options={n_startup_trials: 1}" if settings.sampler in ("tpe", "gp") else "seed=0"
    result = rayloom.run_study(
        name,
        "stop={updates: 4}",
        "evaluate.every=2 updates",
        "search.trials=4",
        f"search.population={min(settings.population, 4)}",
        startup,
        "tracking.enabled=false",
        "tracking.pictures=false",
        f"output={tmp_path}",
        local=True,
    )
    assert result.status == "FINISHED"
    assert result.counts["COMPLETE"] >= 1 and result.counts["COMPLETE"] + result.counts["PRUNED"] == 4
    assert result.best_values is not None and all(math.isfinite(value) for value in result.best_values)
