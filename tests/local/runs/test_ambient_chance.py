"""Environments that draw from the global generators, or change their options: runs stay exact and their record true."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import rayloom
from cases import case
from cut_runs import without_its_end
from processes import history
from rayloom.config.schema import RunConfig
from rayloom.rollouts.making import make_environment
from remarks import Notes

OPTIONS = {"layout": {"made": 0, "places": []}}


def ambient(name: str, output: Path, **sections: Any) -> RunConfig:
    """Return a run of agents in such environments."""
    source = {"env": "ambient_environment:Ambient-v0", "env_options": OPTIONS, **sections.pop("source", {})}
    return case(name, str(output), source=source, evaluate={"episodes": 3}, **sections)


@pytest.mark.parametrize("name", ["ppo", "dqn", "impala"])
def test_a_run_repeats_itself_and_resumes_exactly(name: str, tmp_path: Path) -> None:
    whole = rayloom.run(ambient(name, tmp_path / "whole"), local=True)
    again = rayloom.run(ambient(name, tmp_path / "again"), local=True)
    assert (again.weights_sha256, history(again.run_dir)) == (whole.weights_sha256, history(whole.run_dir))
    resumed = rayloom.resume(without_its_end(whole, tmp_path / "cut"), output=str(tmp_path / "cut"))
    assert resumed.weights_sha256 == whole.weights_sha256
    assert history(resumed.run_dir) == history(whole.run_dir)


def test_what_an_environment_does_to_its_options_stays_with_it(tmp_path: Path) -> None:
    config = ambient("ppo", tmp_path)
    result = rayloom.run(config, local=True)
    recorded = yaml.safe_load((result.run_dir / "config.yaml").read_text())
    assert recorded["source"]["env_options"] == OPTIONS == config.source.env_options  # type: ignore[attr-defined]
    environment = make_environment(config.source, 3)  # type: ignore[arg-type]
    given = [each.unwrapped.given for each in environment._vector_env.envs]  # type: ignore[attr-defined]
    environment.close()
    assert given == [OPTIONS["layout"]] * 3


@pytest.mark.parametrize(("length", "told"), [(10_000, 1), (10, 0)])
def test_episodes_that_no_checkpoint_lets_end_are_told_once(length: int, told: int, tmp_path: Path) -> None:
    remarks = Notes()
    source = {"env_options": {"length": length}}
    config = ambient("ppo", tmp_path, source=source, checkpoint={"every": "256 env_steps"}, tracking={"every": 1})
    short = rayloom.run(config, "evaluate.max_episode_steps=20", local=True, observer=remarks)
    assert (short.counters["episodes"] == 0) == bool(told)
    assert sum("environments start anew at every checkpoint" in note for note in remarks.lines) == told
