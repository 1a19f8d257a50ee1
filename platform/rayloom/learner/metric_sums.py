"""Running means of metrics that stay on the device until they are read."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rayloom.learner.group import Group, SingleLearner


class NotFinite(NamedTuple):
    """Where a loss was NaN or infinite first."""

    update: int
    draws: int
    """Batches that had been drawn until then."""
    name: str
    examples: tuple[int, ...]
    """Their places in this learner's part of the batch."""
    rows: int
    """Examples of that part."""


class MetricSums:
    """Running means of metrics that stay on the device until `drain`."""

    _FOLD = 256

    def __init__(self) -> None:
        self._pending: dict[str, list[tuple[Tensor, tuple[int, int]]]] = {}
        self._counted: dict[str, list[tuple[Tensor, Tensor, tuple[int, int]]]] = {}
        self._sums: dict[str, tuple[float, float]] = {}
        self.at = (0, 0)
        """The update from which the next values come, and the batches drawn so far."""
        self.first_not_finite: NotFinite | None = None
        """The first loss that was NaN or infinite, as far as values have been added up."""

    def add(self, name: str, value: Tensor, count: Tensor | None = None) -> None:
        """Take a detached tensor: [B] counts B examples, or `count` [B] elements; a scalar counts one."""
        if count is not None and value.ndim:
            counted = self._counted.setdefault(name, [])
            counted.append((value, count, self.at))
            if len(counted) >= self._FOLD:
                self._fold(name)
            return
        values = self._pending.setdefault(name, [])
        values.append((value, self.at))
        if len(values) >= self._FOLD:
            self._fold(name)

    def _fold(self, name: str) -> None:
        total, count = self._sums.get(name, (0.0, 0))
        if self._pending.get(name):
            values = torch.cat([value.reshape(-1).float() for value, _ in self._pending[name]])
            added = float(values.sum(dtype=torch.float64))
            if not math.isfinite(added):
                self._find_not_finite(name, self._pending[name])
            total, count = total + added, count + values.numel()
            self._pending[name] = []
        if self._counted.get(name):
            pairs = [
                torch.stack((v.sum(dtype=torch.float64), c.sum(dtype=torch.float64))) for v, c, _ in self._counted[name]
            ]
            more, elements = torch.stack(pairs).sum(0).tolist()
            if not math.isfinite(more):
                self._find_not_finite(name, [(value, at) for value, _, at in self._counted[name]])
            total, count = total + more, count + elements
            self._counted[name] = []
        self._sums[name] = (total, count)

    def _find_not_finite(self, name: str, values: Sequence[tuple[Tensor, tuple[int, int]]]) -> None:
        if not name.endswith("loss"):
            return
        for value, at in values:
            wrong = (~torch.isfinite(value.reshape(-1))).nonzero().flatten().tolist()
            if wrong:
                if self.first_not_finite is None or at < self.first_not_finite[:2]:
                    self.first_not_finite = NotFinite(*at, name, tuple(wrong), value.numel())
                return

    def drain(self, group: Group | None = None, device: torch.device | None = None) -> dict[str, float]:
        """Return the mean of every metric since the last drain, over all learners of `group`, and forget them."""
        self._fold_all()
        sums, self._sums = self._sums, {}
        sums = add_up_sums(group or SingleLearner(), sums, device)
        return {name: total / count for name, (total, count) in sums.items() if count}

    def _fold_all(self) -> None:
        for name in {**self._pending, **self._counted}:
            if self._pending.get(name) or self._counted.get(name):
                self._fold(name)

    def state_dict(self) -> dict[str, Any]:
        """Return the sums so far."""
        self._fold_all()
        return {name: [total, count] for name, (total, count) in self._sums.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the sums."""
        self._pending, self._counted = {}, {}
        self._sums = {name: (float(total), count) for name, (total, count) in state.items()}


def add_up_sums(
    group: Group, sums: Mapping[str, tuple[float, float]], device: torch.device | None
) -> dict[str, tuple[float, float]]:
    """Return sums and counts over all learners, which must have the same names."""
    if group.world_size == 1:
        return dict(sums)
    names = sorted(sums)
    digest = int.from_bytes(hashlib.sha256(repr(names).encode()).digest()[:4], "little")
    if group.sum_counts([len(names), digest]) != [group.world_size * len(names), group.world_size * digest]:
        raise RuntimeError(f"the learners report different metrics; one of them reports {', '.join(names)}")
    if not names:
        return {}
    table = torch.tensor([sums[name] for name in names], dtype=torch.float64, device=device)
    group.all_reduce(table)
    return {name: (total, count) for name, (total, count) in zip(names, table.tolist(), strict=True)}
