"""PPO, A2C, REINFORCE, DQN, IMPALA and Ape-X solve CartPole-v1 from five of five seeds by the shipped configs."""

from __future__ import annotations

from pathlib import Path

import pytest

import rayloom


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.full) for seed in range(1, 5))])
@pytest.mark.parametrize(
    "name",
    ["ppo_cartpole", "a2c_cartpole", "reinforce_cartpole", "dqn_cartpole", "impala_cartpole", "apex_dqn_cartpole"],
)
def test_the_mean_return_of_twenty_episodes_reaches_475(name: str, seed: int, tmp_path: Path) -> None:
    result = rayloom.run(
        name, f"seed={seed}", "tracking.enabled=false", "tracking.pictures=false", f"output={tmp_path}", local=True
    )
    assert result.stopped_by == "evaluate/return_mean >= 475", result.metrics["evaluate/return_mean"]
    assert result.metrics["evaluate/return_mean"] >= 475
