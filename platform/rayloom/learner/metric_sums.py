"""Running means of metrics that stay on the device until they are read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rayloom.learner.group import Group, SingleLearner


class MetricSums:
    """Running means of metrics that stay on the device until `drain`."""

    _FOLD = 256

    def __init__(self) -> None:
        self._pending: dict[str, list[Tensor]] = {}
        self._counted: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self._sums: dict[str, tuple[float, float]] = {}

    def add(self, name: str, value: Tensor, count: Tensor | None = None) -> None:
        """Take a detached tensor: [B] counts B examples, or `count` [B] elements; a scalar counts one."""
        if count is not None and value.ndim:
            counted = self._counted.setdefault(name, [])
            counted.append((value, count))
            if len(counted) >= self._FOLD:
                self._fold(name)
            return
        values = self._pending.setdefault(name, [])
        values.append(value)
        if len(values) >= self._FOLD:
            self._fold(name)

    def _fold(self, name: str) -> None:
        total, count = self._sums.get(name, (0.0, 0))
        if self._pending.get(name):
            values = torch.cat([value.reshape(-1).float() for value in self._pending[name]])
            total, count = total + float(values.sum(dtype=torch.float64)), count + values.numel()
            self._pending[name] = []
        if self._counted.get(name):
            pairs = [
                torch.stack((v.sum(dtype=torch.float64), c.sum(dtype=torch.float64))) for v, c in self._counted[name]
            ]
            more, elements = torch.stack(pairs).sum(0).tolist()
            total, count = total + more, count + elements
            self._counted[name] = []
        self._sums[name] = (total, count)

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
