"""The memory of a long run is flat. RAYLOOM_SOAK_S sets how long each run lasts (default 3600 s; 7200 s on Ray)."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

import rayloom
from cases import case
from memory import AHEAD, Memory, SoakOverError

SOAK_S = float(os.environ.get("RAYLOOM_SOAK_S", "3600"))
ASYNCHRONOUS_SOAK_S = float(os.environ.get("RAYLOOM_SOAK_S", "7200"))
_ALLOWED_MIB = 30.0


def assert_flat(memory: Memory) -> None:
    """The last third may hold little more than the second."""
    for name in memory.points[-1][1]:
        before, last = memory.largest_mib(name, 1), memory.largest_mib(name, 2)
        told = f"{name}: {before:.1f} MiB in the second third, {last:.1f} MiB in the last"
        print(told)
        assert last - before < _ALLOWED_MIB, told


@pytest.mark.full
@pytest.mark.timeout(SOAK_S + 300)
@pytest.mark.parametrize("name", ["ppo", "dqn_prioritized_n_step", "softmax_regression", "wgan_gp"])
def test_memory_is_flat(name: str, tmp_path: Path) -> None:
    memory = Memory(SOAK_S)
    # Log, evaluate and checkpoint often: that is where a leak would be.
    config = case(
        name,
        str(tmp_path),
        tracking={"every": "200 updates"},
        evaluate={"every": "1000 updates"},
        checkpoint={"every": "1000 updates"},
    )
    with pytest.raises(SoakOverError):
        rayloom.run(replace(config, stop={"updates": 10**12}), observer=memory)
    assert_flat(memory)


@pytest.mark.full
@pytest.mark.xdist_group("ray")
@pytest.mark.timeout(ASYNCHRONOUS_SOAK_S + 300)
@pytest.mark.parametrize("name", ["impala", "dqn_ahead"])
def test_memory_of_all_processes_is_flat_with_rollouts_that_run_ahead(name: str, tmp_path: Path) -> None:
    memory = Memory(ASYNCHRONOUS_SOAK_S, family=True)
    config = case(
        name,
        str(tmp_path),
        source=AHEAD,
        tracking={"every": "500 updates"},
        evaluate={"every": "5000 updates"},
        checkpoint={"every": "5000 updates"},
    )
    with pytest.raises(SoakOverError):
        rayloom.run(replace(config, stop={"updates": 10**12}), observer=memory)
    assert {"driver", "RolloutActor", "raylet"} <= memory.points[-1][1].keys()
    assert_flat(memory)
