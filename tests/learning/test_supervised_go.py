"""AlphaGo's supervised stages on 5x5, from shipped games of GNU Go: both policies beat chance by far on other games."""

from __future__ import annotations

from pathlib import Path

import pytest

import rayloom


def learn(config: str, tmp_path: Path, seed: int, *options: str) -> dict[str, float]:
    """Return what a shipped config has found on the held-out games in the end."""
    result = rayloom.run(
        config, "tracking.enabled=false", "tracking.pictures=false", f"output={tmp_path}", f"seed={seed}",
        "evaluate.every=1000 epochs", *options, local=True,
    )  # fmt: skip
    return {name.removeprefix("evaluate/"): value for name, value in result.metrics.items()}


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.full) for seed in (1, 2))])
def test_policies_predict_moves_of_games_that_they_have_not_seen(seed: int, tmp_path: Path) -> None:
    patterns = learn("rollout_policy_go5x5", tmp_path, seed, "stop={epochs: 3}")
    network = learn("supervised_policy_go5x5", tmp_path, seed, "stop={epochs: 5}")
    assert patterns["top1"] > 5 * patterns["uniform_top1"] and patterns["policy_loss"] < 1.6 < patterns["uniform_loss"]
    assert network["top1"] > 0.35 and network["policy_loss"] < 2.0
    assert network["top5_symmetries"] > network["top5"] - 0.02


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.full) for seed in (1, 2))])
def test_the_value_network_knows_who_wins(seed: int, tmp_path: Path) -> None:
    found = learn("value_network_go5x5", tmp_path, seed)
    assert found["winner"] > 0.85 and found["value_loss_symmetries"] <= found["value_loss"] + 0.01
