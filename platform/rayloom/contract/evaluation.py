"""What judges a policy or a model while it is trained and afterwards."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from rayloom.contract.algorithm import Algorithm
from rayloom.contract.data import Metric
from rayloom.contract.figures import Figure
from rayloom.errors import UserError
from rayloom.evaluation_settings import EvaluationConfig


@dataclass(frozen=True)
class Findings:
    """What one evaluation found."""

    metrics: dict[str, float]
    """By name; the engine puts evaluate/ before it."""
    figures: dict[str, Figure] = field(default_factory=dict)
    files: dict[str, str | bytes] = field(default_factory=dict)
    """Contents of files for the run folder and the tracker, by relative path: records of games, transcripts."""


@dataclass(frozen=True, kw_only=True)
class EvaluationContext:
    """What the engine hands an evaluation when it is made."""

    source: Any
    """Settings of the run's source."""
    data: Any
    """The run's data set with its splits; None where it has none."""


class Budget:
    """What an evaluation may take: time for each unit of work, and how many units where the caller says so."""

    def __init__(self, deadline_s: float, count: int | None = None) -> None:
        self.count = count
        """Episodes or games that are asked for, whatever the settings say, as by `rayloom check`; None: as they say."""
        self.units = 0
        """Units of work that are done."""
        self._deadline_s = deadline_s
        self._since = time.monotonic()

    def done(self) -> None:
        """Say that a unit of work is done: a batch, a step of all environments, a game.

        UserError when it took longer than `evaluate.deadline_s`; the next one has the whole time again.
        """
        now = time.monotonic()
        took, self._since = now - self._since, now
        self.units += 1
        if took > self._deadline_s:
            raise UserError(
                f"evaluate.deadline_s: unit {self.units} of an evaluation's work took {took:.1f} s; make it shorter, "
                f"or raise the deadline (now {self._deadline_s:g})"
            )


class Evaluation(ABC):
    """Judges a policy. Made once in each process that evaluates, used by one thread; written in a config as

        evaluate: {import: "my_games:Matches", every: 500 updates, games: 200}

    With `wait: false` it may judge a copy of the algorithm in another process while the training goes on. It changes
    nothing in the run: the engine hands it the algorithm in evaluation mode, without gradients, gives the
    global generators of Python, NumPy and torch seeds for the time being, and takes all of that back afterwards.
    """

    Config: ClassVar[type[EvaluationConfig]] = EvaluationConfig
    """Its settings; the engine reads those of the base."""
    metrics: ClassVar[Mapping[str, Metric]] = {}
    """What it finds, by name without evaluate/, with the direction in which each improves."""

    def __init__(self, config: Any, context: EvaluationContext) -> None:
        """Keep the settings (an instance of `Config`) and what is known of the run."""
        self.config = config
        self.context = context

    @abstractmethod
    def run(self, policy: Algorithm, seed: int, budget: Budget) -> Findings:
        """Judge the policy; equal seeds and weights give equal findings. Call `budget.done` after each unit of work."""

    def close(self) -> None:  # noqa: B027  optional
        """Release environments, engines, processes. Idempotent."""
