"""What a run is after: metrics that stop it or choose its best checkpoint, and the direction in which each improves.

A direction comes from the metric's declaration, the engine's or the algorithm's, or from the config; none is guessed
from a name, and a metric that nobody declares is refused before the run begins.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

from rayloom.config.import_path import suggest
from rayloom.config.schema import PATIENCE, UNITS, Limit, RunConfig
from rayloom.contract import Evaluation, Metric
from rayloom.errors import UserError
from rayloom.runs.evaluations import DataEvaluation
from rayloom.timeline import names_of_metrics

Direction = Literal["max", "min"]

_LOSS = Metric(better="min", meaning="what the phase descends")
_NORM = Metric(meaning="L2 norm of the gradient before it is clipped")
_TAKEN = Metric(better=None, meaning="share of the steps that were taken, of a phase that stops early")
_STRUCK = ("rollout", "hang", "learner", "evaluator", "tracker", "node")
_LOST = ("rollout_restarts", "learner_restarts", *(f"struck_{role}" for role in _STRUCK))
_ENGINE: Mapping[str, Metric] = {
    "train/learning_rate": Metric(meaning="of the first phase"),
    "throughput/env_steps_per_s": Metric(better="max", unit="1/s"),
    "throughput/samples_per_s": Metric(better="max", unit="1/s"),
    "throughput/updates_per_s": Metric(better="max", unit="1/s"),
    "time/wait_fraction": Metric(better="min", meaning="of its time that the learner waits"),
    **{f"time/{unit}": Metric(meaning="a counter, as an axis") for unit in UNITS},
    **{name: Metric(unit="%", meaning="what a role spends its time on") for name in names_of_metrics()},
    **{f"faults/{name}": Metric(better="min", meaning="what was lost and replaced") for name in _LOST},
}


@dataclass(frozen=True)
class StopCondition:
    """A value of a metric at which the run ends."""

    metric: str
    comparison: Literal["<=", ">="]
    limit: float

    def holds(self, metrics: Mapping[str, float]) -> bool:
        """Tell whether the newest value, where there is one, has reached the limit; NaN has not."""
        value = metrics.get(self.metric)
        if value is None:
            return False
        return value <= self.limit if self.comparison == "<=" else value >= self.limit

    def __str__(self) -> str:
        return f"{self.metric} {self.comparison} {self.limit:g}"


@dataclass(frozen=True)
class Objectives:
    """The metrics that decide over a run."""

    stop: tuple[StopCondition, ...]
    best: str | None
    """Metric that chooses the best checkpoint; None without one."""
    mode: Direction = "max"
    """Whether its largest or smallest value is the best."""
    patience: int | None = None
    """Evaluations in a row without a better value of `best` after which the run ends; None: any number."""
    goals: Mapping[str, Direction] = field(default_factory=dict)
    """Metrics whose stopping conditions lie in the direction in which they improve."""

    @property
    def metrics(self) -> frozenset[str]:
        """The metrics that have a say."""
        return frozenset(condition.metric for condition in self.stop) | ({self.best} if self.best else set())

    def reached(self, metrics: Mapping[str, float]) -> str | None:
        """Return the stopping condition that holds, as "evaluate/return_mean >= 475", or None."""
        return next((str(condition) for condition in self.stop if condition.holds(metrics)), None)

    def lost_patience(self, evaluations: int) -> str | None:
        """Return the stopping condition of so many evaluations in a row without a better one, or None."""
        if self.patience is None or evaluations < self.patience:
            return None
        return f"patience {self.patience}: {self.best} was no better in {evaluations} evaluations"

    def improves(self, value: float | None, best: float | None) -> bool:
        """Tell whether a value is better than the best so far; NaN and no value at all are not, and are never best."""
        if value is None or value != value:
            return False
        if best is None or best != best:
            return True
        return value > best if self.mode == "max" else value < best


def declared_metrics(config: RunConfig, phases: Collection[str] | None = None) -> dict[str, Metric]:
    """Return what is known of every metric of a run, by full name, in which * stands for anything.

    `phases` are the names of the algorithm's phases; with several, each phase's metrics begin with its name. None, for
    a config whose algorithm is not built yet, takes any name for one.
    """
    own = config.algorithm_class().metrics
    known = {f"train/{name}": metric for name, metric in own.items()} | {"train/loss": _LOSS}
    prefixes = ["*_"] if phases is None else [f"{name}_" for name in phases] if len(phases) > 1 else []
    known |= {"train/gradient_norm": _NORM, "train/steps_taken": _TAKEN}
    for prefix in prefixes:
        parts = {**own, "loss": _LOSS, "gradient_norm": _NORM, "steps_taken": _TAKEN}
        known |= {f"train/{prefix}{name}": metric for name, metric in parts.items()}
    evaluation: type[Evaluation] = config.evaluate.load()
    judged = own if issubclass(evaluation, DataEvaluation) else evaluation.metrics
    known |= {f"evaluate/{name}": metric for name, metric in judged.items()}
    known |= {f"train/{name}": metric for name, metric in config.source_class().reports.items()}
    return known | dict(_ENGINE)


def declaration(known: Mapping[str, Metric], name: str, key: str) -> Metric:
    """Return what is known of a metric; UserError, which names the config's `key`, when nobody declares it."""
    found = known.get(name) or next((metric for pattern, metric in known.items() if fnmatchcase(name, pattern)), None)
    if found is None:
        names = sorted(pattern for pattern in known if "*" not in pattern)
        raise UserError(f"{key}: nothing in this run declares the metric {name!r}{suggest(name, names)}")
    return found


def read_objectives(config: RunConfig, phases: Collection[str] | None = None) -> Objectives:
    """Return what a run is after; UserError for metrics that nobody declares or whose direction is not known."""
    known = declared_metrics(config, phases)
    conditions: list[StopCondition] = []
    goals: dict[str, Direction] = {}
    for name, written in config.stop.items():
        if name in (*UNITS, PATIENCE):
            continue
        key = f"stop.{name}"
        limit, declared = Limit.parse(written, key), declaration(known, name, key).better
        comparison = limit.comparison
        if comparison is None:
            if declared is None:
                number = f"{limit.number:g}"
                raise UserError(f'{key}: {name} has no direction of its own; write ">= {number}" or "<= {number}"')
            comparison = ">=" if declared == "max" else "<="
        conditions.append(StopCondition(name, comparison, limit.number))
        wanted: Direction = "max" if comparison == ">=" else "min"
        if declared in (None, wanted):  # the other way round it is a guard, not a goal
            goals[name] = wanted
    best = config.checkpoint.best
    if best is None:
        best = next(iter(goals), None)
    patience = config.stop.get(PATIENCE)
    if patience is not None and not config.checkpoint.best:
        raise UserError("stop.patience: say in checkpoint.best which metric is to become better, as evaluate/loss")
    if best is None:
        return Objectives(tuple(conditions), None, goals=goals)
    mode = direction_of(known, best, "checkpoint.best", config.checkpoint.mode, "checkpoint.mode", goals.get(best))
    return Objectives(tuple(conditions), best, mode, None if patience is None else int(patience), goals)


def direction_of(
    known: Mapping[str, Metric],
    name: str,
    key: str,
    given: Direction | None,
    given_key: str,
    implied: Direction | None = None,
) -> Direction:
    """Return the one direction of the metric that the config names at `key`.

    `given` is what the config says at `given_key`, and `implied` what one of its stopping conditions does. UserError
    when they contradict each other or the declaration, or when none of them says anything.
    """
    declared = declaration(known, name, key).better
    standing = declared or implied
    if given is not None and standing is not None and given != standing:
        why = "its declaration" if declared else f"stop.{name}"
        raise UserError(f"{given_key}: {name} improves towards its {standing} by {why}; remove {given_key}")
    found = given or standing
    if found is None:
        raise UserError(f"{given_key}: {name} has no direction of its own; say here in which one it improves")
    return found


def study_directions(
    config: RunConfig, metrics: Sequence[str], given: Sequence[Literal["maximize", "minimize"]] | None
) -> tuple[Literal["maximize", "minimize"], ...]:
    """Return the direction of each metric of a study; `given` are those that its config says, one for each."""
    known, goals = declared_metrics(config), read_objectives(config).goals
    words: dict[Direction, Literal["maximize", "minimize"]] = {"max": "maximize", "min": "minimize"}
    found = []
    for index, name in enumerate(metrics):
        said = None if given is None else next(mode for mode, word in words.items() if word == given[index])
        mode = direction_of(known, name, "search.metric", said, "search.direction", goals.get(name))
        found.append(words[mode])
    return tuple(found)
