"""Running means of metrics that stay on the device until they are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class MetricSums:
    """Running means of metrics that stay on the device until `drain`."""

    _FOLD = 256

    def __init__(self) -> None:
        self._pending: dict[str, list[Tensor]] = {}
        self._sums: dict[str, tuple[float, int]] = {}

    def add(self, name: str, value: Tensor) -> None:
        """Take a detached tensor: [B] counts B examples, a scalar counts one."""
        values = self._pending.setdefault(name, [])
        values.append(value)
        if len(values) >= self._FOLD:
            self._fold(name)

    def _fold(self, name: str) -> None:
        values = torch.cat([value.reshape(-1).float() for value in self._pending[name]])
        total, count = self._sums.get(name, (0.0, 0))
        self._sums[name] = (total + float(values.sum(dtype=torch.float64)), count + values.numel())
        self._pending[name] = []

    def drain(self) -> dict[str, float]:
        """Return the mean of every metric since the last drain, and forget them."""
        self._fold_all()
        means = {name: total / count for name, (total, count) in self._sums.items() if count}
        self._sums = {}
        return means

    def _fold_all(self) -> None:
        for name, values in self._pending.items():
            if values:
                self._fold(name)

    def state_dict(self) -> dict[str, Any]:
        """Return the sums so far."""
        self._fold_all()
        return {name: [total, count] for name, (total, count) in self._sums.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the sums."""
        self._pending = {}
        self._sums = {name: (float(total), int(count)) for name, (total, count) in state.items()}
