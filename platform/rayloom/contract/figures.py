"""Things to look at, as plain data; the engine draws them in a process of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor


@dataclass(frozen=True)
class Figure:
    """Something to look at in the run folder and in the tracker."""

    kind: Literal["images", "matrix", "points"]
    """images: data [M, C, H, W] in 0..1; matrix: data [R, C]; points: data [M, 2]."""
    data: Tensor
    labels: tuple[str, ...] = ()
    """Names of the rows and columns of a matrix."""
    columns: int = 8
    """Images in one row of the grid."""
    reference: Tensor | None = None
    """Points [M', 2] of the true distribution, drawn behind."""
