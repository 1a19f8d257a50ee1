"""Evaluations beside the training, without Ray: a learner's role with a copy of its algorithm that judges late."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from rayloom.checkpoint.random_state import capture_random_state, restore_random_state
from rayloom.config.schema import RunConfig
from rayloom.contract import Algorithm, Budget, Evaluation, EvaluationConfig, Figure, Findings, GlobalNoise, Metric
from rayloom.learner.state import adopt
from rayloom.runs.evaluator import Evaluator
from rayloom.runs.learner_role import LearnerRole, Policy, source_spec

LONGEST_S = 120.0


class LateRole(LearnerRole):
    """Has each evaluation done when it is asked for the `lateness`-th time, or waited for."""

    def __init__(self, config: RunConfig, lateness: float, begins: bool = True) -> None:
        super().__init__(config, begins=begins)
        self._lateness = lateness
        self._asked = 0
        self._given: Policy | None = None
        self.begun: list[int] = []
        drawn = capture_random_state()  # of the training, which the copy must not disturb
        copy = config.algorithm_class()(config.algorithm, source_spec(config, self.dataset))
        restore_random_state(drawn)
        copy.noise = GlobalNoise()
        self._judge, self._copy = Evaluator(config, copy, self.dataset), copy

    def begin_evaluation(self, policy: Policy) -> None:
        """Take the weights and do nothing."""
        assert self._given is None, "two evaluations at once"
        self._given, self._asked = policy, 0
        self.begun.append(policy.number)

    def findings(self, wait: bool) -> Findings | None:
        """Judge the weights once it is time."""
        assert self._given is not None, "nothing was handed over"
        self._asked += 1
        if not wait and self._asked < self._lateness:
            return None
        adopt(self._copy, self._given.weights)
        self._copy.progress = self._given.progress
        found = self._judge.evaluate(self._given.number)
        self._given = None
        return found


@dataclass(frozen=True, kw_only=True)
class HeldConfig(EvaluationConfig):
    """Settings of an evaluation that is held up."""

    until: str
    """It goes on when there is a file of this name."""
    fault: bool = False
    """Whether it fails then."""


class Held(Evaluation):
    """Tells the weights' size, with a figure and a file, once it is let go."""

    Config = HeldConfig
    metrics: ClassVar = {"size": Metric(better="max"), "progress": Metric()}

    def run(self, policy: Algorithm, seed: int, budget: Budget) -> Findings:
        """Say that it has begun, in a file beside, and wait for the file."""
        until = Path(self.config.until)
        until.with_suffix(".begun").touch()
        wait_for(until.exists, budget.done)
        if self.config.fault:
            raise ValueError("the referee has left")
        size = sum(float(parameter.double().abs().sum()) for parameter in policy.parameters())
        metrics = {"size": size, "progress": policy.progress.fraction, "luck": float(torch.rand(()))}
        return Findings(metrics, {"board": Figure("matrix", torch.eye(2))}, {"record.txt": f"{size!r} {seed}"})


def wait_for(condition: Callable[[], Any], meanwhile: Callable[[], None] = lambda: None) -> None:
    """Wait until something is true, which must be soon."""
    deadline = time.monotonic() + LONGEST_S
    while not condition():
        assert time.monotonic() < deadline, "it never happens"
        meanwhile()
        time.sleep(0.01)
