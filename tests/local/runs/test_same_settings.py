"""A run goes on exactly or not at all: an edited config, or another run's checkpoint, is refused with what differs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

import rayloom
from cases import case
from cut_runs import without_its_end
from rayloom.errors import UserError
from rayloom.runs.observer import Result
from rayloom.runs.sameness import learnt_from


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """Return runs that another test may cut off."""
    return {
        name: rayloom.run(case(name, str(tmp_path_factory.mktemp(name))), local=True)
        for name in ("dqn", "softmax_regression")
    }


def edit(folder: Path, key: str, value: object) -> None:
    """Change one key of the run's config file."""
    path = folder / "config.yaml"
    tree = yaml.safe_load(path.read_text())
    *parents, last = key.split(".")
    place = tree
    for parent in parents:
        place = place[parent]
    place[last] = value
    path.write_text(yaml.safe_dump(tree))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("learner.optimizer.kind", "adamw"),
        ("learner.optimizer.learning_rate", 0.5),
        ("learner.batch_size", 16),
        ("learner.max_grad_norm", 3.0),
        ("source.n_step", 2),
        ("source.prioritized", True),
        ("source.env_options", {"max_episode_steps": 20}),
        ("algorithm.gamma", 0.5),
        ("seed", 77),
    ],
)
def test_an_edited_config_is_refused_with_the_key(
    key: str, value: object, finished: dict[str, Result], tmp_path: Path
) -> None:
    name = without_its_end(finished["dqn"], tmp_path)
    edit(tmp_path / name, key, value)
    with pytest.raises(UserError, match=rf"^{key}.*: the checkpoint step_\d+ was made with .*put it back"):
        rayloom.resume(name, output=str(tmp_path))


def test_how_far_and_where_a_run_goes_may_change(finished: dict[str, Result], tmp_path: Path) -> None:
    name = without_its_end(finished["dqn"], tmp_path)
    edit(tmp_path / name, "evaluate.episodes", 3)
    edit(tmp_path / name, "learner.threads", 2)
    edit(tmp_path / name, "checkpoint.keep", 1)
    assert rayloom.resume(name, output=str(tmp_path)).status == "FINISHED"


def test_another_runs_checkpoint_is_refused(finished: dict[str, Result], tmp_path: Path) -> None:
    name = without_its_end(finished["softmax_regression"], tmp_path)
    tree = {**case("softmax_regression", str(tmp_path / "other")).to_tree(), "seed": 5}
    theirs = rayloom.run(tree, local=True).run_dir / "checkpoints"
    own = tmp_path / name / "checkpoints"
    shutil.rmtree(own)
    shutil.copytree(theirs, own)
    with pytest.raises(UserError, match=r"^seed: the checkpoint step_\d+ was made with 5 and config\.yaml has 0"):
        rayloom.resume(name, output=str(tmp_path))


@pytest.mark.parametrize("journal", ["own", "gone"])
def test_a_twins_checkpoint_is_refused_too(journal: str, finished: dict[str, Result], tmp_path: Path) -> None:
    """Of a run that has every setting in common, seed included; a journal that is gone takes the checkpoint's name."""
    name = without_its_end(finished["softmax_regression"], tmp_path)
    own = tmp_path / name
    theirs = rayloom.run(case("softmax_regression", str(tmp_path / "other")), local=True).run_dir / "checkpoints"
    if journal == "gone":
        (own / "internal/journal.jsonl").unlink()
        rayloom.resume(name, output=str(tmp_path))
    shutil.rmtree(own / "checkpoints")
    shutil.copytree(theirs, own / "checkpoints")
    for use in (rayloom.evaluate, rayloom.load, *([rayloom.resume] if journal == "own" else [])):
        with pytest.raises(UserError, match=r"^the checkpoint step_\d+ was made by another run"):
            use(name, output=str(tmp_path))


def test_what_shapes_learning_does_not_depend_on_places() -> None:
    config = case("ppo", "/a")
    moved = case("ppo", "/b", tracking={"every": "3 updates"}, source={"rollout_workers": 2}, learner={"count": 2})
    assert learnt_from(config) == learnt_from(moved)
    assert learnt_from(config) != learnt_from(case("ppo", "/a", source={"rollout_steps": 16}))
