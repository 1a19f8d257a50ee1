"""Who remembers the beginning of a T-maze finds its goal, and who does not is right half of the time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import rayloom

SHORT = ["source.env_options={length: 5}", "evaluate.every=10_240 env_steps", "tracking.enabled=false"]


def reached(output: Path, *overrides: str) -> Any:
    """Return the mean return over 40 episodes of the shipped config in a maze of length 5."""
    result = rayloom.run("recurrent_ppo_t_maze", *SHORT, f"output={output}", *overrides, local=True)
    return result.metrics["evaluate/return_mean"]


def test_memory_solves_it(tmp_path: Path) -> None:
    assert reached(tmp_path, "stop.env_steps=200_000") >= 3.9


@pytest.mark.full
def test_without_memory_it_stays_at_chance(tmp_path: Path) -> None:
    assert reached(tmp_path, "algorithm.memory_size=0", "learner.batch_size=512", "stop.env_steps=200_000") < 3
