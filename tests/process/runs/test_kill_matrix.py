"""The kill matrix: every algorithm, alone and as two learners, killed at a random moment and resumed to the same bits.

The weights' hash has the buffers in it. What is quick of this runs always, in one process: `saved_runs_continue` of the
conformance suite for one learner, `tests/local/learner/test_two_learners.py` for two.
"""

from __future__ import annotations

import random
import time
from dataclasses import replace
from pathlib import Path

import pytest

import rayloom
from cases import TREES, case
from cut_runs import assert_no_point_twice
from processes import history, journal_lines, kill_after, run_folder, start, write_config
from rayloom.config.schema import RunConfig
from rayloom.runs.observer import Result
from rayloom.testing import small

pytestmark = [pytest.mark.full, pytest.mark.xdist_group("ray")]

KINDS = sorted({tree["algorithm"]["import"]: name for name, tree in sorted(TREES.items(), reverse=True)}.values())
"""One case for each algorithm."""
LONG_ENOUGH_S = 1.5
"""A kill meets a living process in a training that takes so long."""


def matrix_config(name: str, output: Path, count: int, updates: int) -> RunConfig:
    config = small(case(name, str(output)))
    return replace(
        config,
        learner=replace(config.learner, count=count),
        stop={"updates": updates},
        checkpoint=replace(config.checkpoint, every=f"{max(1, updates // 6)} updates"),
        evaluate=replace(
            config.evaluate, settings=replace(config.evaluate.settings, every=f"{max(1, updates // 4)} updates")
        ),
        tracking=replace(config.tracking, every=f"{max(1, updates // 60)} updates"),
        cluster=replace(config.cluster, learner="actor" if count > 1 else "driver"),
    )


def whole_run(name: str, folder: Path, count: int) -> tuple[Result, int]:
    """Return an uninterrupted run that takes a while, and how many updates it has."""
    updates, attempt = 60 if count == 1 else 300, 0
    while True:
        began = time.monotonic()
        result = rayloom.run(matrix_config(name, folder / f"whole-{attempt}", count, updates), local=count == 1)
        spent = time.monotonic() - began - (2.0 if count > 1 else 0.0)  # actors take a moment to start
        attempt += 1
        if spent >= LONG_ENOUGH_S or attempt == 4:
            return result, updates
        updates = min(20_000, int(updates * min(50.0, 1.5 * LONG_ENOUGH_S / max(spent, 0.05))))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.usefixtures("one_node")
def test_a_kill_changes_nothing(name: str, count: int, tmp_path: Path) -> None:
    whole, updates = whole_run(name, tmp_path, count)
    moment = random.Random(f"{name} {count}").uniform(0.2, 0.6)
    for attempt in range(3):
        output = tmp_path / f"killed-{attempt}"
        tree_file = write_config(matrix_config(name, output, count, updates), tmp_path)
        process = start("run", str(tree_file), *(["--local"] if count == 1 else []), cwd=tmp_path)
        if kill_after(process, output, max(1, int(journal_lines(whole.run_dir.parent) * moment))):
            break
        moment /= 2
    else:
        pytest.fail("the run always ended before it could be killed")
    folder = run_folder(output)
    resumed = rayloom.resume(folder.name, output=str(output))
    assert resumed.weights_sha256 == whole.weights_sha256
    assert resumed.counters == whole.counters
    assert history(folder) == history(whole.run_dir)
    assert_no_point_twice(folder)
