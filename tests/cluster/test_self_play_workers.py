"""Workers of self-play by tree search as Ray actors play the games of one process."""

from __future__ import annotations

from pathlib import Path

import pytest

from cases import case
from equality_parts import WorkersHere
from rayloom import run
from rayloom.runs.learner_role import LearnerRole
from rayloom.runs.schedule import Schedule

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.usefixtures("one_node")]


def test_two_actors_play_the_games_of_one_process(tmp_path: Path) -> None:
    # Gumbel search keeps no tree from move to move, so that the barriers of the run's checkpoints change nothing.
    search = {"method": "gumbel", "simulations": 6}
    source = {"rollout_workers": 2, "worker_cpus": 0.5, "search": search}
    config = case("alphazero", str(tmp_path), source=source, stop={"updates": 20}, evaluate={"every": None})
    here = LearnerRole(config, WorkersHere)
    here.advance(Schedule({}, {"updates": 20}))
    on_ray = run(config)
    assert on_ray.counters == {"updates": 20, **here.counters()}
    assert on_ray.weights_sha256 == here.weights_sha256()
    here.close()
