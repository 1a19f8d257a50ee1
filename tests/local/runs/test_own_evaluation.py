"""An evaluation of the user's own: its settings, what it finds, and that it leaves no trace in the run."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rayloom
from cases import case
from rayloom.config.load import from_tree
from rayloom.contract import (
    Algorithm,
    Batch,
    Budget,
    Evaluation,
    EvaluationConfig,
    Figure,
    Findings,
    Metric,
    Spec,
)
from rayloom.errors import UserError
from rayloom.runs.learner_role import LearnerRole
from rayloom.runs.objectives import read_objectives
from rayloom.tracking.journal import read_metrics
from rayloom_supervised.tasks.classification import Classifier


@dataclass(frozen=True, kw_only=True)
class MatchesConfig(EvaluationConfig):
    """Settings of matches."""

    games: int = 4
    """Games of one evaluation."""


class Matches(Evaluation):
    """Draws from every generator that there is, as a careless author would."""

    Config = MatchesConfig
    metrics: ClassVar = {"score": Metric(better="max"), "luck": Metric()}
    closed = 0

    def run(self, policy: Algorithm, seed: int, budget: Budget) -> Findings:
        assert not policy.training and not torch.is_grad_enabled()
        games = budget.count or self.config.games
        for _ in range(games):
            budget.done()
        luck = torch.rand(()).item() + np.random.rand() + random.random() + seed % 7
        size = float(next(policy.parameters()).abs().sum())
        record = f"{games} games, seed {seed}"
        files = {"records/game.sgf": record, "raw.bin": b"\x00\xff"}
        figures = {"board": Figure("matrix", torch.eye(3))}
        return Findings({"score": size, "luck": luck}, figures, files)

    def close(self) -> None:
        type(self).closed += 1


class Unfinished(Evaluation):
    """Does not say how it judges."""

    def __init__(self, *arguments: Any) -> None:
        raise AssertionError("it is called")


class Loose(Matches):
    """Has settings in which the engine does not find its own."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Settings of nothing."""

        games: int = 3


class Speechless(Matches):
    """Finds nothing, and does not say so."""

    def run(self, policy: Algorithm, seed: int, budget: Budget) -> Any:
        return {"score": 1.0}


OWN = {"import": f"{__name__}:Matches", "every": "7 updates", "games": 3}


def matches(output: Path, **evaluate: Any) -> Any:
    """Return a classifier with dropout, whose training draws from torch's generator, judged by matches."""
    tree = case("mlp_dropout", str(output), stop={"updates": 21, "epochs": 99}).to_tree()
    return from_tree({**tree, "evaluate": {**OWN, **evaluate}})


def test_an_evaluation_of_ones_own_is_run_and_recorded(tmp_path: Path) -> None:
    result = rayloom.run(matches(tmp_path), local=True)
    points = {(step, name): value for step, name, value in read_metrics(result.run_dir)}
    assert {step for step, name in points if name == "evaluate/score"} == {7, 14, 21}
    assert "evaluate/accuracy" not in result.metrics
    folder = result.run_dir / "artifacts" / "evaluations" / "step_000000021"
    assert (folder / "records" / "game.sgf").read_text().startswith("3 games, seed ")
    assert (folder / "raw.bin").read_bytes() == b"\x00\xff"
    again = rayloom.evaluate(result.run_dir.name, output=str(tmp_path))
    assert again.metrics == {name: value for name, value in result.metrics.items() if name.startswith("evaluate/")}
    assert Matches.closed


def test_evaluations_change_nothing_in_the_training(tmp_path: Path) -> None:
    often = rayloom.run(matches(tmp_path / "often", every="1 updates"), local=True)
    once = rayloom.run(matches(tmp_path / "once", every=None), local=True)
    tree = case("mlp_dropout", str(tmp_path / "data"), stop={"updates": 21, "epochs": 99}).to_tree()
    data = rayloom.run(from_tree({**tree, "evaluate": {"every": "2 updates"}}), local=True)
    assert often.weights_sha256 == once.weights_sha256 == data.weights_sha256
    assert often.metrics["evaluate/luck"] == once.metrics["evaluate/luck"]  # it has generators of its own


def test_its_config_is_written_as_it_was_read(tmp_path: Path) -> None:
    config = matches(tmp_path)
    tree = config.to_tree()
    assert tree["evaluate"] == {**OWN, "deadline_s": 600.0, "wait": True}
    assert from_tree(tree) == config


@pytest.mark.parametrize(
    ("evaluate", "sentence"),
    [
        ({"gamess": 3}, r"evaluate\.gamess: .*Matches has no such setting; did you mean 'games'\?"),
        ({"games": "many"}, r"evaluate\.games: "),
        ({"episodes": 3}, r"evaluate\.episodes: .*Matches has no such setting"),
        (
            {"import": "os:system"},
            r"evaluate\.import: os:system is no evaluation; name a subclass of rayloom\.contract\.Evaluation",
        ),
        ({"import": f"{__name__}:Unfinished"}, r"evaluate\.import: .*:Unfinished must implement run$"),
        ({"import": f"{__name__}:Loose"}, r"the Config of .*:Loose must be a subclass of rayloom\.contract\.Eval"),
        ({"import": f"{__name__}:matches"}, r"evaluate\.import: .*:matches is no evaluation; name a subclass of"),
        ({"import": "rayloom_supervised.tasks.classification:Classifier"}, r"Classifier is no evaluation; name a"),
        ({"import": 3}, r"evaluate\.import: name the evaluation as"),
        ({"every": "often"}, r"evaluate\.every: write a positive number"),
        (
            {"kind": "episodes"},
            r"evaluate: kind names a shipped evaluation and import one of your own; keep one of them",
        ),
        ({"deadline_s": 0}, r"evaluate\.deadline_s: input should be greater than 0, not 0"),
    ],
)
def test_mistakes_in_it_are_one_sentence(tmp_path: Path, evaluate: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        matches(tmp_path, **evaluate)


def test_its_metrics_are_those_that_a_run_can_stop_by(tmp_path: Path) -> None:
    tree = matches(tmp_path).to_tree()
    goal = read_objectives(from_tree({**tree, "stop": {"updates": 9, "evaluate/score": 5}}))
    assert (goal.best, goal.mode) == ("evaluate/score", "max")
    with pytest.raises(UserError, match="declares the metric 'evaluate/accuracy'"):
        read_objectives(from_tree({**tree, "stop": {"updates": 9, "evaluate/accuracy": 0.5}}))


class Counting(Classifier):
    """Keeps a part in evaluation mode while it trains, and may count its evaluations in a buffer."""

    counts = False

    def __init__(self, config: Any, spec: Spec) -> None:
        super().__init__(config, spec)
        self.register_buffer("seen", torch.zeros(()))
        self.frozen = nn.Dropout(0.5)

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        if self.counts:
            self.seen += 1
        return super().evaluate(batch)


def test_modes_are_restored_part_by_part_and_changed_buffers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    role = LearnerRole(case("mlp_dropout", algorithm={"import": f"{__name__}:Counting"}))
    role.algorithm.frozen.eval()
    role.evaluate()
    assert role.algorithm.training and not role.algorithm.frozen.training
    monkeypatch.setattr(Counting, "counts", True)
    with pytest.raises(UserError, match="an evaluation changed the buffer seen of Counting"):
        role.evaluate()
    assert role.algorithm.training


class Escaping(Matches):
    """Writes where it may not."""

    def run(self, policy: Algorithm, seed: int, budget: Budget) -> Findings:
        return Findings({"score": 1.0}, files={"../../stolen": "x"})


def test_its_files_stay_in_the_run_folder(tmp_path: Path) -> None:
    config = matches(tmp_path / "out", **{"import": f"{__name__}:Escaping"})
    with pytest.raises(UserError, match="give a path inside the run folder"):
        rayloom.run(config, local=True)
    assert not list(tmp_path.rglob("stolen"))


def test_what_it_returns_is_checked(tmp_path: Path) -> None:
    config = matches(tmp_path, **{"import": f"{__name__}:Speechless"})
    with pytest.raises(UserError, match=r"Speechless\.run returns a dict; return Findings\(metrics\)"):
        rayloom.run(config, local=True)


@pytest.mark.parametrize(
    ("name", "written", "kind"),
    [
        ("mlp_dropout", None, "data"),
        ("mlp_dropout", {"batch_size": 5}, "data"),
        ("ppo", {"every": 3}, "episodes"),
        ("ppo", "none", "none"),
        ("ppo", {"kind": "none", "every": 9}, "none"),
    ],
)
def test_without_a_kind_it_follows_the_source(name: str, written: Any, kind: str, tmp_path: Path) -> None:
    config = from_tree({**case(name, str(tmp_path)).to_tree(), "evaluate": written})
    assert config.evaluate.kind == kind
    assert from_tree(config.to_tree()) == config and config.to_tree()["evaluate"]["kind"] == kind


def test_a_run_without_an_evaluation_has_the_metrics_of_its_training(tmp_path: Path) -> None:
    tree = case("mlp_dropout", str(tmp_path), stop={"updates": 9, "epochs": 99}).to_tree()
    result = rayloom.run(from_tree({**tree, "evaluate": {"kind": "none", "every": "3 updates"}}), local=True)
    assert result.metrics and not any(name.startswith("evaluate/") for name in result.metrics)
