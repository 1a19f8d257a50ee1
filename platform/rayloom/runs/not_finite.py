"""What is said of a loss that has become NaN or infinite: the update and the examples of its batch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from rayloom.learner.metric_sums import NotFinite

_MOST_ROWS = 8


def told(found: NotFinite, rows: Tensor | None) -> str:
    """Return where a loss was not finite, in words; `rows` [B] are the batch's rows of the training data, if known."""
    batch = "its batch" if rows is None else f"its batch ({_listed(rows.tolist())} of the training data)"
    if not found.name:
        return f"the weights are not finite after update {found.update}; {batch} was the last"
    if len(found.examples) == found.rows:
        # All at once: the weights were spoilt by the update before, or by no example in particular.
        return f"{found.name} was not finite first in update {found.update}, for all {found.rows} examples of {batch}"
    wrong = f"{len(found.examples)} of the {found.rows} examples of its batch"
    if rows is not None and len(rows) == found.rows:
        wrong += f": {_listed([int(rows[place]) for place in found.examples])} of the training data"
    return f"{found.name} was not finite first in update {found.update}, for {wrong}"


def _listed(rows: Sequence[int]) -> str:
    """Return the rows in words, the first few of many; they are counted from 0."""
    shown = ", ".join(str(row) for row in rows[:_MOST_ROWS])
    more = f" and {len(rows) - _MOST_ROWS} more" if len(rows) > _MOST_ROWS else ""
    return f"row{'s' if len(rows) > 1 else ''} {shown}{more}"
