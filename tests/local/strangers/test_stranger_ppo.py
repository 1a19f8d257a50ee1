"""PPO as a stranger writes it: with masks, with pictures and several choices, with memory; CTC on ragged lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import MultiDiscrete

import rayloom
from cases import case
from places import FAKES
from rayloom.config.load import load
from rayloom.config.schema import RunConfig
from rayloom.errors import UserError
from rayloom.runs.learner_role import LearnerRole
from rayloom.testing import check_algorithm
from strangers.rooms import Doors, Signs, WithoutVelocities

SKIPPED = {
    "masked_ppo": {"data_repeat", "rules_add_up", "deployed_rows_do_not_mix"},
    "structured_ppo": {"data_repeat", "rules_add_up", "deployed_rows_do_not_mix"},
    "recurrent_ppo": {"data_repeat", "rules_add_up", "deployed_rows_do_not_mix"},
    # Its loss reads lengths, of which torch's meta device has none.
    "transcriber": {"rules_add_up", "actions_fit", "deployed_rows_do_not_mix", "tensors_share_a_device"},
}
BROKEN = {"transcriber": {"losses_stay_on_the_device"}}
"""torch's packed sequences and its CTC read their lengths on the host, which does stop a GPU."""


def stranger(name: str, output: Path | str = "rayloom-runs", *overrides: str) -> RunConfig:
    """Return one of their configs without tracking."""
    folder = FAKES / ("strangers_sequences" if name == "transcriber" else "strangers")
    quiet = ("tracking.enabled=false", "tracking.system_metrics=false", "tracking.pictures=false", f"output={output}")
    return load(str(folder / f"{name}.yaml"), (*quiet, *overrides))


@pytest.mark.parametrize("name", SKIPPED)
def test_all_promises_are_kept(name: str) -> None:
    results = check_algorithm(stranger(name))
    assert {result.name for result in results if result.failure} == BROKEN.get(name, set())
    assert {result.name for result in results if result.skipped} == SKIPPED[name]


def test_a_mask_is_obeyed_in_every_step_and_the_lit_door_is_found(tmp_path: Path, monkeypatch: Any) -> None:
    walls: list[int] = []
    step = Doors.step

    def watched(self: Doors, action: Any) -> Any:
        walls.append(int(not self.there[action]))
        return step(self, action)

    monkeypatch.setattr(Doors, "step", watched)
    result = rayloom.run(stranger("masked_ppo", tmp_path), local=True)
    assert len(walls) > 6_000 and sum(walls) == 0
    assert result.metrics["evaluate/return_mean"] > 7.9
    with pytest.raises(UserError, match=r"^source\.info_fields: masked PPO needs \[action_mask\]"):
        LearnerRole(stranger("masked_ppo", tmp_path, "source.info_fields=[]"))


def test_a_picture_a_number_and_two_choices_at_once(tmp_path: Path) -> None:
    assert Signs().action_space == MultiDiscrete([2, 3])
    result = rayloom.run(stranger("structured_ppo", tmp_path), local=True)
    assert result.metrics["evaluate/return_mean"] > 5.8  # by chance 0.5 * 6 / 2 + 0.5 * 6 / 3 = 2.5
    trained = rayloom.load(result.run_dir.name, output=str(tmp_path))
    observation, _ = Signs().reset(seed=3)
    action = trained.act({name: np.stack([value] * 3) for name, value in observation.items()})
    assert isinstance(action, np.ndarray) and action.shape == (3, 2)


def test_lines_of_unequal_length_are_read(tmp_path: Path) -> None:
    result = rayloom.run(stranger("transcriber", tmp_path), local=True)
    assert result.metrics["evaluate/exact_match"] > 0.9


def test_padding_changes_nothing_about_a_line() -> None:
    role = LearnerRole(stranger("transcriber"))
    try:
        algorithm: Any = role.algorithm
        assert role.dataset is not None
        lengths = role.dataset.train.lengths["frames"]
        short = int(lengths.argmin())
        alone, beside = (
            algorithm.loss(role.dataset.train.rows(torch.tensor(rows))).per_example[0]
            for rows in ([short], [short, int(lengths.argmax())])
        )
        torch.testing.assert_close(alone, beside)
    finally:
        role.close()


@pytest.mark.full
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_memory_makes_up_for_what_cannot_be_seen(seed: int, tmp_path: Path) -> None:
    result = rayloom.run(stranger("recurrent_ppo", tmp_path, f"seed={seed}"), local=True)
    assert result.metrics["evaluate/return_mean"] >= 195


@pytest.mark.full
def test_without_memory_it_cannot_be_made_up_for(tmp_path: Path) -> None:
    """The engine's own PPO, given as many steps and no memory, stays far below."""
    config = case(
        "ppo",
        str(tmp_path),
        source={"env": "strangers.rooms:WithoutVelocities-v0", "num_envs": 16, "rollout_steps": 64, "epochs": 5},
        learner={"batch_size": 256, "optimizer": {"learning_rate": 3e-3}},
        evaluate={"every": "10_240 env_steps", "episodes": 20},
        checkpoint={"best": "evaluate/return_mean"},
        stop={"env_steps": 163_840},
    )
    assert rayloom.run(config, local=True).metrics["evaluate/return_mean"] < 120


def test_what_cannot_be_seen_is_not_in_the_observation() -> None:
    environment = WithoutVelocities()
    observation, _ = environment.reset(seed=1)
    assert environment.observation_space.contains(observation) and observation.shape == (2,)
