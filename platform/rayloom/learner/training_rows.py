"""A split that lies in memory, as the table that `Algorithm.initialize` sees."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from rayloom.contract import Batch


class TrainingRows:
    """Named tensors [N, ...] as a table."""

    def __init__(self, fields: Mapping[str, Tensor]) -> None:
        self._fields = fields

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(next(iter(self._fields.values())))

    def rows(self, indices: Tensor) -> Batch:
        """Return the rows of the indices [B]."""
        return {name: value.index_select(0, indices) for name, value in self._fields.items()}

    def batches(self, size: int) -> Iterator[Batch]:
        """Yield all rows in order, `size` at a time."""
        for start in range(0, len(self), size):
            yield {name: value[start : start + size] for name, value in self._fields.items()}
