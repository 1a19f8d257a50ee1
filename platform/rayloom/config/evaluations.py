"""What judges a run: the settings of the engine's own evaluations, and which of them follows from a source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge

from rayloom.components import Component, Kinds, Shipped
from rayloom.config.sources import STRICT, WRAPPERS, EnvironmentFields
from rayloom.evaluation_settings import EvaluationConfig


@dataclass(frozen=True, kw_only=True)
class EpisodesConfig(EvaluationConfig):
    """Whole greedy episodes in environments of its own."""

    __pydantic_config__ = STRICT
    episodes: Annotated[int, Ge(1)] = 20
    """Episodes of one evaluation."""
    num_envs: Annotated[int, Ge(1)] | None = None
    """Parallel evaluation environments; null: as many as episodes."""
    max_episode_steps: Annotated[int, Ge(1)] = 100_000
    """An evaluation episode that is longer is cut off there and counts as it is (unit: env_steps)."""
    env_options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the evaluation's environments that differ from `source.env_options`, as
    `{reward_clipping: false}` for Atari returns as the game counts them."""
    film_steps: Annotated[int, Ge(0)] = 0
    """Steps of one more greedy episode that are shown as an animation with each evaluation, in MLflow and in the run
    folder (unit: env_steps); 0: none."""
    wrappers: tuple[Annotated[Component, WRAPPERS], ...] | None = None
    """Wrappers of the evaluation's environments instead of `source.wrappers`, as [] for unclipped rewards; null: those
    of the source."""


@dataclass(frozen=True, kw_only=True)
class DataConfig(EvaluationConfig):
    """One pass over a held-out split of the data set, judged by the algorithm itself."""

    __pydantic_config__ = STRICT
    split: Literal["validation", "test"] = "validation"
    """Data that evaluations read; the test set is for the last word only."""
    batch_size: Annotated[int, Ge(1)] = 1_000
    """Examples in one forward pass."""


@dataclass(frozen=True, kw_only=True)
class NoEvaluationConfig(EvaluationConfig):
    """Nothing: the run has the metrics of its training only."""

    __pydantic_config__ = STRICT


EVALUATIONS = Kinds(
    "evaluation",
    {
        "episodes": Shipped("rayloom.runs.evaluations:EpisodesEvaluation", EpisodesConfig),
        "data": Shipped("rayloom.runs.evaluations:DataEvaluation", DataConfig),
        "none": Shipped("rayloom.runs.evaluations:NoEvaluation", NoEvaluationConfig),
    },
    own="a subclass of rayloom.contract.Evaluation",
    base="rayloom.contract.evaluation:Evaluation",
    settings=EvaluationConfig,
)
"""What judges a run; without kind or import, the one that its source needs."""


def with_kind(written: Any, kind: str) -> Any:
    """Return the `evaluate` part of a config with the kind for which a mapping without one is short."""
    if written is None:
        return {"kind": kind}
    if isinstance(written, Mapping) and not {"kind", "import"} & written.keys():
        return {"kind": kind, **written}
    return written


def kind_for(config: type[Any], has_data: bool) -> str:
    """Return the engine's own evaluation for a source with settings of the class `config`."""
    if issubclass(config, EnvironmentFields):
        return "episodes"
    return "data" if has_data else "none"
