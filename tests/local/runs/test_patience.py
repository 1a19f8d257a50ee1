"""A run ends when its best metric has not become better for some evaluations, in one go or resumed, at the same one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import rayloom
from cut_runs import without_its_end
from rayloom.config.load import from_tree
from rayloom.config.schema import RunConfig
from rayloom.contract import (
    Algorithm,
    AlgorithmConfig,
    Budget,
    Evaluation,
    EvaluationConfig,
    Findings,
    Gathered,
    Metric,
    Rule,
)


class Counter(Algorithm):
    """Counts its updates."""

    sources = frozenset({"dataset"})

    def __init__(self, config: AlgorithmConfig, spec: Any) -> None:
        super().__init__(config, spec)
        self.register_buffer("count", torch.zeros(()))

    def phases(self) -> list[Rule]:
        return [
            Rule("count", lambda batch: Gathered({}), lambda sums, count: self.count.add_(1) and None, (self.count,))
        ]


@dataclass(frozen=True, kw_only=True)
class ValuesConfig(EvaluationConfig):
    """Says one value after the other."""

    values: tuple[float, ...] = ()
    """What it finds after 2, 4, ... updates."""


class Values(Evaluation):
    """Finds what it is told to."""

    Config = ValuesConfig
    metrics: ClassVar = {"value": Metric(better="max")}

    def run(self, policy: Algorithm, seed: int, budget: Budget) -> Findings:
        value = self.config.values[int(policy.count) // 2 - 1]
        return Findings({"value": math.nan if value == NOT_A_NUMBER else value})


def run_of(values: tuple[float, ...], output: Path, patience: int) -> RunConfig:
    return from_tree(
        {
            "name": "patient",
            "output": str(output),
            "algorithm": {"import": "test_patience:Counter"},
            "source": {"kind": "dataset", "dataset": "digits"},
            "learner": {"batch_size": 32},
            "evaluate": {"import": "test_patience:Values", "every": "2 updates", "values": values},
            "checkpoint": {"best": "evaluate/value", "every": "2 updates"},
            "stop": {"updates": 40, "patience": patience},
            "tracking": {"enabled": False, "system_metrics": False, "pictures": False},
        }
    )


NOT_A_NUMBER = -1.0  # a config takes no NaN
VALUES = (1.0, 3.0, 2.0, 2.5, 3.5, 3.0, NOT_A_NUMBER, 3.4, 9.0, *[0.0] * 11)


@pytest.fixture(autouse=True)
def _findable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.mark.parametrize(("patience", "updates", "best"), [(2, 8, 3.0), (3, 16, 3.5), (4, 26, 9.0), (50, 40, 9.0)])
def test_it_ends_after_so_many_evaluations_without_a_better_one(
    patience: int, updates: int, best: float, tmp_path: Path
) -> None:
    result = rayloom.run(run_of(VALUES, tmp_path, patience), local=True)
    assert result.counters["updates"] == updates
    wanted = f"patience {patience}: evaluate/value was no better in {patience} evaluations"
    assert result.stopped_by == (wanted if updates < 40 else "updates >= 40")
    trained = rayloom.load(result.run_dir.name, output=str(tmp_path))
    assert int(trained.algorithm.count) == 2 * (VALUES.index(best) + 1)  # the best weights, not the last


def test_a_resumed_run_ends_at_the_same_evaluation(tmp_path: Path) -> None:
    result = rayloom.run(run_of(VALUES, tmp_path / "whole", 3), local=True)
    name = without_its_end(result, tmp_path)  # with evaluations since the best one behind it, and some before it
    again = rayloom.resume(name, output=str(tmp_path))
    assert (again.counters, again.stopped_by) == (result.counters, result.stopped_by)
    assert again.stopped_by.startswith("patience 3")
