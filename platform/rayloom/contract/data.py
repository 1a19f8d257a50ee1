"""What flows: named tensors, and what is known of them before the first batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

Batch = dict[str, Tensor]
"""Named tensors that share their first dimension [B, ...]. `weight` [B], where present, weighs each example's loss."""

Trajectory = dict[str, Tensor]
"""Time-major rollouts [T, N, ...] with the keys observation, action, reward, next_observation (the true one, also where
an episode ended), terminated, truncated, valid (False marks the dead step of a NEXT_STEP vector environment), first
(the step's observation begins an episode: after a reset or a barrier), and what `act` returned as extras. A nested
observation or action has one key for each part: observation.position, next_observation.position, action.0 (Tuple spaces
count their parts). `source.info_fields: [action_mask]` makes fields of `info` parts of the observation:
observation.action_mask; an observation that was not nested is then the part observation.observation. A replay source
hands `prepare` sampled segments or sequences instead: see `Algorithm.prepare`."""


def gather_parts(tensors: Mapping[str, Any], field: str) -> Any:
    """Return what a batch or trajectory holds of one field: its tensor, or a dict by the names of its parts."""
    if field in tensors:
        return tensors[field]
    prefix = f"{field}."
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def spread_parts(field: str, value: Any) -> dict[str, Any]:
    """Return a field's tensor, or the dict of its parts, by flat names: the reverse of `gather_parts`."""
    if isinstance(value, Mapping):
        return {f"{field}.{name}": part for name, part in value.items()}
    return {field: value}


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """Shape, type and range of one named tensor without its batch dimension."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    num_values: int | tuple[int, ...] | None = None
    """Set for categories: one number for a class label or a discrete action; one for each element, flattened, of a
    vector of categories (MultiDiscrete, MultiBinary). None for real vectors."""
    low: tuple[float, ...] | None = None
    """Smallest value of each element, flattened; None when unbounded or unknown."""
    high: tuple[float, ...] | None = None
    """Largest value of each element, flattened; None when unbounded or unknown."""
    labels: tuple[str, ...] = ()
    """Names of the categories, in their order; they reach every picture. Empty when unknown."""
    ragged: bool = False
    """Whether the first dimension of an example varies: `shape` then has the longest. A batch is padded with zeros to
    its own longest example, and `<name>_length` [B] has the true lengths."""

    @property
    def categories(self) -> int:
        """The number of values of one category; only where `num_values` is one number."""
        assert isinstance(self.num_values, int), f"{self} is not one category"
        return self.num_values


Spec = Mapping[str, TensorSpec]
"""What a source delivers: {"observation", "action"} for environments (the parts of nested spaces as
"observation.position"), the fields of the data set otherwise."""


class Table(Protocol):
    """Rows of a data set, which need not be in memory."""

    def __len__(self) -> int: ...

    def rows(self, indices: Tensor) -> Batch:
        """Return the rows of the indices [B] (int64, on the CPU), on the CPU."""

    def batches(self, size: int) -> Iterator[Batch]:
        """Yield all rows in order, `size` at a time (the last ones may be fewer)."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What is known of a metric before it is measured."""

    better: Literal["max", "min"] | None = None
    """Which direction is an improvement; None: neither."""
    unit: str = ""
    """Unit, for axes and tables: "nats", "return", "seconds"."""
    meaning: str = ""
    """One line."""
