"""SAC, TD3 and DDPG swing the pendulum up with the shipped configs: a mean return of -200 over twenty episodes."""

from __future__ import annotations

from pathlib import Path

import pytest

import rayloom

FULL = pytest.mark.full


@pytest.mark.parametrize(
    ("name", "seed"),
    [
        ("sac", 0), ("td3", 0), pytest.param("ddpg", 0, marks=FULL),
        *(pytest.param(name, seed, marks=FULL) for name in ("sac", "td3", "ddpg") for seed in (1, 2)),
    ],
)  # fmt: skip
def test_it_is_swung_up(name: str, seed: int, tmp_path: Path) -> None:
    result = rayloom.run(
        f"{name}_pendulum",
        f"seed={seed}",
        "tracking.enabled=false",
        "tracking.pictures=false",
        f"output={tmp_path}",
        local=True,
    )
    assert result.stopped_by == "evaluate/return_mean >= -200", result.metrics["evaluate/return_mean"]
