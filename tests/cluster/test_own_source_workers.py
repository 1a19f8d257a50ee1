"""An own source's workers as Ray actors: the games of one process, with one learner and with two, and again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from equality_parts import WorkersHere
from own_runs import games
from rayloom import run
from rayloom.runs.learner_role import LearnerRole
from rayloom.runs.schedule import Schedule

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.usefixtures("one_node")]


def test_two_actors_play_the_games_of_one_process(tmp_path: Path) -> None:
    config = games(tmp_path, rollout_workers=2, worker_cpus=0.5)
    here = LearnerRole(config, WorkersHere)
    here.advance(Schedule({}, {"updates": 40}))
    on_ray = run(config)
    # A checkpoint is a barrier, over which the openings and the generators go on.
    assert on_ray.counters == here.counters()
    assert on_ray.weights_sha256 == here.weights_sha256()
    here.close()


def test_two_learners_with_an_actor_each_repeat_themselves(tmp_path: Path) -> None:
    config = games(tmp_path, learners=2, rollout_workers=2, worker_cpus=0.5)
    config = replace(config, learner=replace(config.learner, cpus=0.5))
    first, second = (run(config) for _ in range(2))
    assert first.counters == second.counters and first.counters["episodes"] == 10 * 32
    assert first.weights_sha256 == second.weights_sha256
