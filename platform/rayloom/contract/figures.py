"""Things to look at, as plain data; the engine draws them outside the process that trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from rayloom.errors import UserError

FigureKind = Literal["images", "matrix", "points", "curves", "histogram", "text", "table", "animation"]

_SHAPES: dict[str, str] = {
    "images": "[M, 1 or 3, H, W]",
    "matrix": "[R, C]",
    "points": "[M, 2]",
    "curves": "[K, P]",
    "histogram": "[K, M]",
    "table": "[R, C]",
    "animation": "[T, 1 or 3, H, W]",
}


@dataclass(frozen=True)
class Figure:
    """Something to look at in the run folder and in the tracker; UserError when its parts do not fit together."""

    kind: FigureKind
    data: Tensor | None = None
    """images: [M, 1 or 3, H, W] in 0..1; matrix and table: [R, C]; points: [M, 2]; curves: K of them at P places
    [K, P]; histogram: K samples of M numbers [K, M]; animation: T pictures [T, 1 or 3, H, W] in 0..1; text: none."""
    labels: tuple[str, ...] = ()
    """Names of the rows of a matrix or table, of the curves, of the samples, or of the groups of points; captions of
    images."""
    column_labels: tuple[str, ...] = ()
    """Names of the columns of a matrix or table."""
    columns: int = 8
    """Images in one row of the grid."""
    reference: Tensor | None = None
    """Points [M', 2] of the true distribution, drawn behind."""
    groups: Tensor | None = None
    """To which group each of the points belongs, [M] whole numbers from 0."""
    x: Tensor | None = None
    """Places [P] of the curves' values; 0 to P - 1 without."""
    axes: tuple[str, str] = ("", "")
    """What runs to the right and upwards: names of the axes of points, curves and histograms."""
    text: str = ""
    """The text."""
    frames_per_second: float = 20.0
    """Speed of an animation."""
    animate: bool = False
    """Of images and points that show the same subject at every evaluation (the same codes, the same examples): when
    the run ends an animation over its steps is drawn."""

    def __post_init__(self) -> None:
        """Check that data, labels and further tensors have the shapes that the kind asks for."""
        if self.kind not in (*_SHAPES, "text"):
            raise UserError(f"there is no figure of kind {self.kind!r}; the kinds are {', '.join(_SHAPES)}, text")
        if self.kind == "text":
            self._require(bool(self.text) and self.data is None, "a text, and no data")
            return
        shape = [] if self.data is None else list(self.data.shape)
        self._require(_fits(self.kind, shape), f"data {_SHAPES[self.kind]}, not {shape}")
        rows = len(shape) and shape[0]
        if self.kind in ("matrix", "table"):
            self._check_labels("labels", self.labels, rows, "rows")
            self._check_labels("column_labels", self.column_labels, shape[1], "columns")
        if self.kind in ("curves", "histogram", "images"):
            self._check_labels("labels", self.labels, rows, "images" if self.kind == "images" else "rows of data")
        if self.kind == "points":
            self._check_points(rows)
        self._require(not self.animate or self.kind in ("images", "points"), "no animate, which images and points have")
        if self.x is not None:
            wanted = [shape[-1]]
            self._require(self.kind == "curves" and list(self.x.shape) == wanted, f"no x, or curves with x {wanted}")

    def _check_points(self, count: int) -> None:
        if self.reference is not None:
            shape = list(self.reference.shape)
            self._require(len(shape) == 2 and shape[1] == 2, f"reference [M', 2], not {shape}")
        if self.groups is None:
            return
        shape = list(self.groups.shape)
        whole = not self.groups.is_floating_point() and int(self.groups.min()) >= 0 if shape == [count] else False
        self._require(whole, f"groups [{count}] of whole numbers from 0, not {self.groups.dtype} {shape}")
        if self.labels:
            needed = int(self.groups.max()) + 1
            self._require(len(self.labels) >= needed, f"{needed} labels, one for each group, not {len(self.labels)}")

    def _check_labels(self, name: str, labels: Sequence[str], count: int, of: str) -> None:
        self._require(
            not labels or len(labels) == count, f"{count} {name}, one for each of its {of}, not {len(labels)}"
        )

    def _require(self, holds: bool, wanted: str) -> None:
        if not holds:
            raise UserError(f"a figure of kind {self.kind} needs {wanted}")


def _fits(kind: str, shape: list[int]) -> bool:
    if not shape or 0 in shape:
        return False
    if kind in ("images", "animation"):
        return len(shape) == 4 and shape[1] in (1, 3)
    return len(shape) == 2 and (kind != "points" or shape[1] == 2)
