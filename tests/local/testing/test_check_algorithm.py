"""Every promise that an algorithm breaks is found by its check, in one sentence; those that keep them pass."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from broken_parts import BROKEN_PARTS
from cases import case
from processes import write_config
from rayloom.cli.main import main
from rayloom.config.schema import RunConfig
from rayloom.contract import Algorithm, Budget, Evaluation, EvaluationConfig, Findings, Metric
from rayloom.testing import CHECKS, ConformanceError, check_algorithm, small

BROKEN = [
    ("Ascends", "losses_fall", "does not lower its loss"),
    ("MixesRows", "shards_add_up", "must not depend on the other examples"),
    ("ReadsTheHost", "losses_stay_on_the_device", "reads a tensor's value on the host"),
    ("StaysOnTheCPU", "tensors_share_a_device", "phase classify: a tensor is made on the CPU"),
    ("AlreadyReduced", "losses_stay_on_the_device", r"must have the shape \[32\]"),
    ("KeepsAttached", "losses_stay_on_the_device", "detach its metric 'own'"),
    ("DrawsElsewhere", "seeded_runs_agree", "two runs with the same seed are not the same"),
    ("ForgetsItsState", "saved_runs_continue", "must be a parameter or a registered buffer"),
    ("EvaluatesByChance", "evaluations_change_nothing", "does not repeat itself"),
    ("LearnsFromEvaluations", "evaluations_change_nothing", "changes '.*' of the algorithm's state"),
    ("ReportsNothing", "metrics_have_shared_names", "train/ratio is nan"),
    ("ActsOnReals", "actions_fit", "whole numbers as action, not torch.float32"),
    ("ActsOneTooHigh", "actions_fit", "outside 0 to 2 - 1"),
    ("ActsByChance", "actions_fit", "draws from torch's"),
    ("IgnoresItsGenerator", "actions_fit", "draw from `explore` alone"),
    ("LooksAround", "actions_fit", "rows must not mix"),
]


def broken(name: str, output: str = "rayloom-runs") -> RunConfig:
    """Return a small run of a broken algorithm."""
    agent = name.startswith(("Acts", "Ignores", "Looks"))
    path: dict[str, Any] = {"import": f"broken_algorithms:{name}"}
    return case("ppo" if agent else "softmax_regression", output, algorithm=path)


@pytest.mark.parametrize(("name", "check", "sentence"), BROKEN, ids=[name for name, *_ in BROKEN])
def test_a_broken_promise_is_found(name: str, check: str, sentence: str) -> None:
    with pytest.raises(ConformanceError, match=sentence) as caught:
        CHECKS[check](small(broken(name)))
    assert "\n" not in str(caught.value)


class Marathon(Evaluation):
    """Plays as many games as it is asked for, by default more than anybody has time for."""

    @dataclass(frozen=True, kw_only=True)
    class Config(EvaluationConfig):
        """Settings of the marathon."""

        games: int = 10**9
        """Games of one evaluation."""

    metrics: ClassVar = {"score": Metric(better="max")}
    played: ClassVar[list[int]] = []

    def run(self, policy: Algorithm, seed: int, budget: Budget) -> Findings:
        games = budget.count or self.config.games
        for _ in range(games):
            budget.done()
        self.played.append(games)
        return Findings({"score": float(next(policy.parameters()).sum())})


def test_an_evaluation_of_ones_own_is_kept_short() -> None:
    own = {"import": f"{__name__}:Marathon", "every": "1 epochs", "wait": False}
    config = case("softmax_regression", evaluate=own, cluster={"evaluator": "actor"})
    assert [result.failure for result in check_algorithm(config) if result.failure] == []
    assert len(Marathon.played) > 10 and set(Marathon.played) == {2}


def test_every_check_has_found_something() -> None:
    assert {check for _, check, _ in BROKEN + BROKEN_PARTS} == set(CHECKS)


def test_all_checks_are_done_and_told_at_once() -> None:
    told: list[str] = []
    results = check_algorithm(broken("Ascends"), lambda result: told.append(result.name))
    assert told == list(CHECKS) == [result.name for result in results]
    assert [result.name for result in results if result.failure] == ["losses_fall"]
    assert [result.name for result in results if result.skipped] == ["rules_add_up", "actions_fit"]
    assert results[list(CHECKS).index("losses_fall")].promise == "that every phase lowers its loss on a fixed batch"


@pytest.mark.parametrize(("name", "code"), [("softmax_regression", 0), ("ReportsNothing", 1)])
def test_the_command_prints_a_line_for_each_check(
    name: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = broken(name, str(tmp_path)) if code else case(name, str(tmp_path))
    assert main(["check", str(write_config(config, tmp_path)), "--json"]) == code
    written = capsys.readouterr()
    told = json.loads(written.out)
    lines = written.err.splitlines()
    assert len([line for line in lines if line.split()[0] in ("ok", "failed", "skipped")]) == len(CHECKS)
    assert told["checks"].keys() == CHECKS.keys() and told["checks"]["losses_fall"] == "ok"
    assert told["status"] == ("FAILED" if code else "FINISHED")
    assert ("metrics_have_shared_names" in told["failed"]) == bool(code)
    assert not (tmp_path / "mlflow.db").exists()


def test_a_config_that_cannot_be_read_is_the_users_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path / "missing.yaml")]) == 2
    assert "missing" in capsys.readouterr().err
