"""Rollout workers whose environments are not those of the driver."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import rayloom
from cases import case
from rayloom.errors import UserError


@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize("inference", ["worker", "central"])
def test_other_spaces_in_rays_processes_are_one_sentence(tmp_path: Path, inference: str) -> None:
    source: dict[str, Any] = {"env": "process_spaces:ProcessSpaces-v0", "rollout_workers": 2, "worker_cpus": 0.5}
    config = case("ppo", str(tmp_path), source={**source, "inference": inference})
    assert rayloom.run(config, local=True).status == "FINISHED"
    with pytest.raises(UserError, match=r"source\.env: environments . to . of rollout worker . have other spaces than"):
        rayloom.run(config)
