"""Studies played without training: a journal that can be cut off at any write, and a driver of closed formulas."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial

from rayloom.config.search import SearchConfig
from rayloom.search.ledger import Ledger, TrialEntry
from rayloom.search.space import Space

FLAT = {"x": {"float": [0.0, 1.0]}, "y": {"log": [1e-4, 1.0]}, "n": {"int": [1, 8]}}
MIXED = {**FLAT, "act": ["relu", "tanh", None]}
BRANCHES = {
    "kind": ["adam", "sgd"],
    "x": {"float": [0.0, 1.0]},
    "beta": {"float": [0.0, 1.0], "when": {"kind": "adam"}},
    "momentum": {"float": [0.0, 0.9], "step": 0.1, "when": {"kind": "sgd"}},
    "widths": {"list": {"length": {"int": [1, 3]}, "item": [32, 64]}},
}
GRID = {"kind": ["a", "b"], "x": [1, 2, 3], "y": {"int": [1, 2], "when": {"kind": "a"}}}


class KilledError(BaseException):
    """The driver is dead."""


class Log(BaseJournalBackend):
    """A journal in memory that survives its writer."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.left: float = math.inf
        """Writes until the writer is killed."""

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """Yield entries."""
        return (json.loads(line) for line in self.lines[log_number_from:])

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Keep entries, or kill the writer before it does."""
        for log in logs:
            if self.left <= 0:
                raise KilledError
            self.left -= 1
            self.lines.append(json.dumps(log))


@dataclass(frozen=True)
class Game:
    """A study and the formula that its trials evaluate."""

    sampler: str = "random"
    pruner: str = "none"
    space: Mapping[str, Any] = field(default_factory=lambda: FLAT)
    trials: int = 8
    evaluations: int = 9
    seed: int = 3
    directions: tuple[str, ...] = ("minimize",)
    options: Mapping[str, Any] = field(default_factory=dict)
    pruner_options: Mapping[str, Any] = field(default_factory=dict)

    def open(self, storage: BaseStorage | Log) -> Ledger:
        """Begin or continue the study."""
        settings = SearchConfig(
            space=self.space,
            sampler=self.sampler,  # type: ignore[arg-type]
            sampler_options=self.options,
            pruner=self.pruner,  # type: ignore[arg-type]
            pruner_options=self.pruner_options,
            trials=self.trials,
        )
        return Ledger(
            settings,
            Space.parse(self.space),
            self.seed,
            name="game",
            storage=JournalStorage(storage) if isinstance(storage, Log) else storage,
            directions=self.directions,
            evaluations=self.evaluations,
        )

    def values(self, entry: TrialEntry, evaluation: int) -> tuple[float, ...]:
        """Return a trial's evaluation: it falls, but some trials report what is not a number or is infinite."""
        number = entry.number
        if number % 6 == 4 and evaluation == 2:
            return (math.nan,) * len(self.directions)
        if number % 7 == 5:
            return (math.inf,) * len(self.directions)
        numbers = [value for value in entry.assignment.parameters.values() if isinstance(value, int | float)]
        base = sum((float(value) - 0.3) ** 2 for value in numbers) / max(1, len(numbers))
        return tuple((-1) ** k * base / (k + 1) + (number % 3 + 1) / evaluation for k in range(len(self.directions)))

    def step(self, ledger: Ledger, entry: TrialEntry, evaluation: int) -> None:
        """Report a trial's evaluation and end the trial if that was the last one."""
        values = self.values(entry, evaluation)
        if entry.number % 6 == 3 and evaluation == 2:
            ledger.end(entry.number, "FAILED", failure=f"Traceback of {entry.number}")
        elif ledger.report(entry.number, evaluation, values):
            ledger.end(entry.number, "PRUNED")
        elif evaluation == self.evaluations and math.isnan(values[0]):
            ledger.end(entry.number, "FAILED", failure="not a number")
        elif evaluation == self.evaluations:
            ledger.end(entry.number, "COMPLETE", values)

    def play(self, ledger: Ledger) -> Ledger:
        """Run one trial after the other to the study's end; what runs begins anew."""
        while ledger.running or len(ledger.entries) < self.trials:
            entry = ledger.running[0] if ledger.running else ledger.ask()
            evaluation = 0
            while entry.state is None:
                evaluation += 1
                self.step(ledger, entry, evaluation)
        return ledger


def facts(ledger: Ledger) -> list[str]:
    """Return all that a ledger knows, comparable also where it is not a number."""
    return [repr(vars(entry)) for entry in ledger.entries] + [repr([entry.number for entry in ledger.pareto()])]


def stored(storage: BaseStorage | Log) -> list[str]:
    """Return all that a storage knows of its only study, except for the time of day."""
    storage = JournalStorage(storage) if isinstance(storage, Log) else storage
    (study,) = storage.get_all_studies()
    return [_plain(trial) for trial in sorted(storage.get_all_trials(study._study_id), key=lambda trial: trial.number)]


def _plain(trial: FrozenTrial) -> str:
    parts = (trial.params, trial.distributions, trial.intermediate_values, trial.user_attrs, trial.system_attrs)
    return repr((trial.number, trial.state, trial.values, *(sorted(part.items()) for part in parts)))
