"""The `search` part of a config: what `rayloom search` varies, how trials are proposed, and how they are judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, MinLen

from rayloom.config.sources import STRICT

Direction = Literal["maximize", "minimize"]
Scalar = str | bool | int | float | None


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """Search space and study settings of `rayloom search`."""

    __pydantic_config__ = STRICT
    space: Mapping[str, Any]
    """What is varied: dotted config keys and their ranges or choices, as in `rayloom.search.space`."""
    sampler: Literal["grid", "random", "tpe", "gp", "cmaes", "qmc"] = "tpe"
    """Who proposes trials: every point of a grid, random points, a tree-structured Parzen estimator (Bergstra et al.
    2011), a Gaussian process, CMA-ES (Hansen and Ostermeier 2001), or a quasi-random Sobol sequence."""
    sampler_options: Mapping[str, Scalar] = field(default_factory=dict)
    """Keyword arguments of Optuna's sampler."""
    pruner: Literal["none", "median", "successive_halving", "hyperband", "patient"] = "none"
    """Who ends trials early: nobody, whatever is worse than the median, asynchronous successive halving (Li et al.
    2020), Hyperband (Li et al. 2018), or a lack of progress."""
    pruner_options: Mapping[str, Scalar] = field(default_factory=dict)
    """Keyword arguments of Optuna's pruner."""
    trials: Annotated[int, Ge(1)] | None = None
    """Trials of the whole study; null: every point of a grid (the other samplers need a number)."""
    metric: str | Annotated[tuple[str, ...], MinLen(1)] | None = None
    """Metric that is optimised, or a list of metrics for a Pareto front; null: the run's first stop metric."""
    direction: Direction | Annotated[tuple[Direction, ...], MinLen(1)] | None = None
    """maximize or minimize, one for each metric; null: as the metrics' declarations say."""
    value: Literal["last", "best"] = "last"
    """Which evaluation of a trial counts."""
    parallel: Annotated[int, Ge(1)] | None = None
    """Trials at once; null: as many as fit."""
    population: Annotated[int, Ge(1)] = 1
    """Trials trained together as one vectorised model."""
    max_failures: Annotated[int, Ge(0)] = 10
    """The study ends with an error when more trials than this have failed."""
    storage: str | None = None
    """Database URL for Optuna's trials; null: a journal file in the study's folder. Of one with *** in the place of its
    password the rest must equal RAYLOOM_SEARCH_STORAGE, which has it."""
