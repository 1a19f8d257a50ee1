"""What a study tells whoever watches it: the study display, a test, a notebook."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rayloom.config.schema import RunConfig

TrialState = Literal["RUNNING", "COMPLETE", "PRUNED", "FAILED"]
STATES = ("COMPLETE", "PRUNED", "FAILED", "RUNNING")
"""The states of a trial in the order in which they are counted out."""
_WORDLESS = ("name", "kind")


@dataclass(frozen=True)
class TrialView:
    """A trial as it stands at one moment."""

    number: int
    """The trial's place in the study, from 0."""
    state: TrialState
    """RUNNING until it ends; PRUNED when the pruner stopped it early."""
    values: tuple[float, ...] | None
    """The newest value of each metric of the study, at the end the value that counts; None before the first."""
    parameters: dict[str, Any]
    """What was sampled: config key to the value that stands in the trial's config."""
    fraction: float
    """Share of the trial's stopping budget that is spent, 0 to 1."""
    elapsed_s: float
    """Seconds that the trial has trained for; 0 where that is not known."""
    note: str = ""
    """One line on why it ended, where the state does not tell."""
    earlier: bool = False
    """It ended before this process resumed the study: it counts, but it is no news."""


@dataclass(frozen=True)
class StudyResult:
    """What a study returns."""

    study_id: str
    """MLflow run id of the study, or the study folder's name when the tracking server was never reached."""
    status: str
    """FINISHED, FAILED or KILLED."""
    best_number: int | None
    """The best trial; of several metrics, the Pareto front's trial that is best in the first. None without any."""
    best_values: tuple[float, ...] | None
    """Its value of each metric."""
    best_parameters: dict[str, Any]
    """Its sampled values by config key; empty without a best trial."""
    best_config: Path | None
    """The best trial's whole config, to train again; None without a best trial."""
    counts: dict[str, int]
    """Number of trials by state."""
    metrics: tuple[str, ...]
    """Full names of the metrics that the study looked at."""
    directions: tuple[str, ...]
    """maximize or minimize, one for each metric."""
    study_dir: Path
    """Folder with the study, its pictures and the folders of its trials."""
    tracking_uri: str
    """MLflow store."""
    pareto: tuple[int, ...]
    """Numbers of the trials on the Pareto front; the best trial alone when there is one metric."""
    duration_s: float
    """Seconds since this process started or resumed the study."""


class StudyObserver:
    """Receives the events of one study, all from the driver's thread. Every method does nothing by default."""

    def started(
        self,
        config: RunConfig,
        study_dir: Path,
        total: int | None,
        slots: int,
        metrics: tuple[str, ...],
        directions: tuple[str, ...],
    ) -> None:
        """Called once, before the first trial: `total` trials (None: unknown), `slots` of them at a time."""

    def study_id(self, text: str) -> None:
        """Called once, as soon as the tracker's id of the study is known."""

    def trial(self, view: TrialView) -> None:
        """Called when a trial begins, at each of its reports, and when it ends.

        A resumed study calls it once for each trial that had ended before, marked `earlier`.
        """

    def note(self, text: str) -> None:
        """Called with one-line remarks."""

    def finished(self, result: StudyResult) -> None:
        """Called once, after the last trial and after the tracker was closed."""


class Standing:
    """What a study has reached so far: the best trials, the counts by state, and how long the rest will take.

    `total` is None where the number of trials is not known; `slots` trials run at a time.
    """

    def __init__(self, total: int | None = None, slots: int = 1, directions: Sequence[str] = ("maximize",)) -> None:
        """Start without a trial."""
        self.total = total
        self.best: list[tuple[int, tuple[float, ...]]] = []
        """Number and values of the trials that no other beats in every metric; the earlier one of equals."""
        self.running: dict[int, TrialView] = {}
        """The newest view of each trial that runs, by its number."""
        self.counts = dict.fromkeys(STATES, 0)
        """Number of trials by state."""
        self._slots = max(1, slots)
        self.directions = tuple(directions)
        self._signs = [1.0 if direction == "maximize" else -1.0 for direction in directions]
        self._durations: list[float] = []

    @property
    def done(self) -> int:
        """Number of trials that have ended."""
        return sum(self.counts.values()) - self.counts["RUNNING"]

    def update(self, view: TrialView) -> None:
        """Take the newest view of a trial in; the view that ends a trial comes once."""
        if view.state == "RUNNING":
            self.running[view.number] = view
        else:
            self.running.pop(view.number, None)
            self.counts[view.state] += 1
            # A trial that fails at once says nothing about how long the others take.
            if view.state != "FAILED" and view.elapsed_s > 0:
                self._durations.append(view.elapsed_s)
            if view.state == "COMPLETE" and view.values and all(map(math.isfinite, view.values)):
                self._decide(view.number, view.values)
        self.counts["RUNNING"] = len(self.running)

    def _decide(self, number: int, values: tuple[float, ...]) -> None:
        def at_least(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
            return all(sign * a >= sign * b for sign, a, b in zip(self._signs, one, other, strict=True))

        if not any(at_least(other, values) for _, other in self.best):
            self.best = [(n, other) for n, other in self.best if not at_least(values, other)] + [(number, values)]

    def remaining_s(self) -> float | None:
        """Return the seconds that the study will take still, by the mean duration of its trials; None while unknown."""
        left = None if self.total is None else self.total - self.done
        if left is None or not self._durations:
            return None
        mean = sum(self._durations) / len(self._durations)
        begun = sum(min(view.elapsed_s, mean) for view in self.running.values())
        return max(0.0, left * mean - begun) / min(self._slots, max(1, left))


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Return for each dotted name its shortest ending, whole parts only, that tells it from the others.

    "learner.optimizer.learning_rate" becomes "learning_rate"; "name" and "kind" keep what they belong to.
    """
    parts = {name: name.split(".") for name in names}
    endings: dict[str, str] = {}
    for name, own in parts.items():
        for length in range(min(len(own), 2 if own[-1] in _WORDLESS else 1), len(own) + 1):
            endings[name] = ".".join(own[-length:])
            if all(other[-length:] != own[-length:] for key, other in parts.items() if key != name):
                break
    return endings
