"""PPO with masks, pictures, vectors of categories, and memory, on tasks of seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import rayloom
from cases import case


def returns(tmp_path: Path, steps: int, source: dict[str, Any], **sections: Any) -> float:
    """Train, and return the mean of greedy episodes at the end."""
    algorithm = {"hidden_sizes": [32], **sections.pop("algorithm", {})}
    learner = {
        "optimizer": {"learning_rate": 5e-3},
        "max_grad_norm": 0.5,
        "batch_size": 64,
        **sections.pop("learner", {}),
    }
    config = case(
        "ppo",
        str(tmp_path),
        algorithm=algorithm,
        source={"num_envs": 16, "epochs": 4, **source},
        learner=learner,
        evaluate={"every": f"{steps} env_steps", "episodes": 40},
        stop={"env_steps": steps},
    )
    return float(rayloom.run(config, local=True).metrics["evaluate/return_mean"])


@pytest.mark.parametrize(("env", "inference"), [({}, "worker"), ({"single": True}, "worker")])
def test_a_masked_policy_obeys_and_learns_from_pictures(env: dict[str, Any], inference: str, tmp_path: Path) -> None:
    source = {"env": "memory_tasks:Forbidding-v0", "env_options": env, "rollout_steps": 32, "inference": inference}
    # Of three single actions the one that tells "bright" is forbidden in a third of the steps with a bright picture.
    assert returns(tmp_path, 6_000, source) > (6.2 if env else 7.5)


def test_memory_repeats_the_cue_and_without_it_chance_is_all(tmp_path: Path) -> None:
    source = {"env": "memory_tasks:RepeatCue-v0", "rollout_steps": 32}
    memory = {"memory_size": 16, "sequence_length": 8}
    assert returns(tmp_path / "with", 16_000, source, algorithm=memory, learner={"batch_size": 16}) > 0.95
    assert returns(tmp_path / "without", 6_000, source) < 0.8
