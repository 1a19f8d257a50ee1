"""Every algorithm that a stranger wrote: cut off and resumed, killed for real, and searched over, like our own."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import rayloom
from cut_runs import without_its_end
from learners import assert_two_go_on
from places import FAKES
from processes import finish, history, journal_lines, kill_after, run_folder, start, write_config
from rayloom.config.load import from_tree, load
from rayloom.config.schema import RunConfig


class Stranger(NamedTuple):
    """One of them, and how it is made short."""

    file: str
    words: tuple[str, ...]
    longer: str
    """A budget in which it can be killed half way."""
    varied: tuple[str, tuple[Any, Any]]
    """A setting of one of its components, with two values."""
    metric: str


UPDATES = ("stop={updates: 12}", "checkpoint.every=4 updates", "tracking.every=2 updates")
ROLLOUTS = ("stop={env_steps: 768}", "checkpoint.every=256 env_steps", "tracking.every=128 env_steps")
STRANGERS = {
    "sac": Stranger(
        "strangers/sac_probe.yaml",
        (*ROLLOUTS, "algorithm.random_steps=100"),
        "env_steps: 12_000",
        ("algorithm.hidden_size", (8, 16)),
        "evaluate/return_mean",
    ),
    "masked ppo": Stranger(
        "strangers/masked_ppo.yaml",
        ROLLOUTS,
        "env_steps: 60_000",
        ("algorithm.clip_range", (0.1, 0.3)),
        "evaluate/return_mean",
    ),
    "structured ppo": Stranger(
        "strangers/structured_ppo.yaml",
        ROLLOUTS,
        "env_steps: 60_000",
        ("learner.optimizer.kind", ("adam", "rmsprop")),
        "evaluate/return_mean",
    ),
    "recurrent ppo": Stranger(
        "strangers/recurrent_ppo.yaml",
        (*ROLLOUTS, "source.num_envs=4", "algorithm.units=8", "evaluate.episodes=4"),
        "env_steps: 20_000",
        ("source.epochs", (1, 2)),
        "evaluate/return_mean",
    ),
    "deep belief network": Stranger(
        "strangers/dbn_digits.yaml",
        ("stop={epochs: 6}", "checkpoint.every=1 epochs", "tracking.every=10 updates"),
        "epochs: 60",
        ("algorithm.machine_rate", (0.1, 0.5)),
        "evaluate/accuracy",
    ),
    "self-play": Stranger(
        "strangers/tic_tac_toe.yaml",
        (*UPDATES, "evaluate.games=20"),
        "updates: 400",
        ("source.reuse", (1, 2)),
        "evaluate/score",
    ),
    "attention": Stranger(
        "strangers_sequences/attention.yaml",
        (*UPDATES, "algorithm.cell_size=8"),
        "updates: 600",
        ("source.dataset.letters", (5, 6)),
        "evaluate/exact_match",
    ),
    "ctc": Stranger(
        "strangers_sequences/transcriber.yaml",
        UPDATES,
        "updates: 400",
        ("source.dataset.noise", (0.1, 0.3)),
        "evaluate/exact_match",
    ),
}


def stranger(name: str, output: Path, *overrides: str) -> RunConfig:
    """Return a short run of one of them, without tracking."""
    found = STRANGERS[name]
    quiet = ("tracking.enabled=false", "tracking.system_metrics=false", "tracking.pictures=false", f"output={output}")
    return load(str(FAKES / found.file), (*quiet, *found.words, *overrides))


@pytest.mark.parametrize("name", STRANGERS)
def test_one_that_was_cut_off_goes_on_exactly(name: str, tmp_path: Path) -> None:
    whole = rayloom.run(stranger(name, tmp_path / "whole"), local=True)
    resumed = rayloom.resume(without_its_end(whole, tmp_path / "cut"), output=str(tmp_path / "cut"))
    assert (resumed.weights_sha256, resumed.counters) == (whole.weights_sha256, whole.counters)
    assert history(resumed.run_dir) == history(whole.run_dir)


@pytest.mark.parametrize("name", STRANGERS)
def test_two_learners_agree_and_go_on_exactly(name: str, tmp_path: Path) -> None:
    assert_two_go_on(stranger(name, tmp_path))


@pytest.mark.full
@pytest.mark.parametrize("name", STRANGERS)
def test_one_that_was_killed_goes_on_exactly(name: str, tmp_path: Path) -> None:
    stop = f"stop={{{STRANGERS[name].longer}}}"
    whole = rayloom.run(stranger(name, tmp_path / "whole", stop), local=True)
    lines = journal_lines(tmp_path / "whole")
    file = write_config(stranger(name, tmp_path / "killed", stop), tmp_path)
    path = os.pathsep.join([str(FAKES), os.environ.get("PYTHONPATH", "")])
    process = start("run", str(file), "--local", cwd=tmp_path, PYTHONPATH=path)
    moment = max(1, int(lines * random.Random(name).uniform(0.1, 0.6)))
    assert kill_after(process, tmp_path / "killed", moment), "it ended before it could be killed: make it longer"
    folder = run_folder(tmp_path / "killed")
    words = ("resume", folder.name, f"--output={tmp_path / 'killed'}")
    resumed = finish(start(*words, cwd=tmp_path, PYTHONPATH=path))
    assert resumed["weights_sha256"] == whole.weights_sha256
    assert history(folder) == history(whole.run_dir)


@pytest.mark.parametrize("name", STRANGERS)
def test_a_study_varies_a_setting_of_one_of_its_parts(name: str, tmp_path: Path) -> None:
    key, values = STRANGERS[name].varied
    tree = stranger(name, tmp_path, "evaluate.every=null").to_tree()
    search = {"space": {key: list(values)}, "sampler": "grid", "metric": STRANGERS[name].metric}
    study = rayloom.run_study(from_tree({**tree, "search": search}), local=True)
    assert study.status == "FINISHED" and study.counts["COMPLETE"] == 2
    configs = [load(str(path)) for path in sorted(study.study_dir.glob("trials/*/config.yaml"))]
    found = [_at(config.to_tree(), key) for config in configs]
    assert found == list(values)


def _at(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree[part]
    return tree
