"""What a run takes from earlier ones when it begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rayloom.config.sources import STRICT


@dataclass(frozen=True, kw_only=True)
class InputConfig:
    """An earlier run whose weights the algorithm is given, as `inputs: {judge: {run: RUN_ID, weights: best}}`."""

    __pydantic_config__ = STRICT
    run: str
    """Its id, in the same `output`; or the folder of a parcel, as `rayloom player` writes them."""
    weights: Literal["best", "last"] | int | None = None
    """best, last, or the update of a checkpoint; null: the best where the run kept one, else the last."""


@dataclass(frozen=True, kw_only=True)
class StartFromConfig(InputConfig):
    """An earlier run with whose weights this one begins."""

    __pydantic_config__ = STRICT
    include: tuple[str, ...] = ("*",)
    """Which of its tensors, by name, with * for anything; each of them must be here too, in the same shape."""
    rename: Mapping[str, str] = field(default_factory=dict)
    """Beginnings of their names to those of this run's names, as {"encoder.": "backbone."}."""


def written_out(inputs: Any) -> Any:
    """Return `inputs` with every bare run id as the mapping that it is short for."""
    if not isinstance(inputs, Mapping):
        return inputs
    return {name: {"run": value} if isinstance(value, str) else value for name, value in inputs.items()}
