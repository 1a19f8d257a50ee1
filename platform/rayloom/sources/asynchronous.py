"""Trajectories of slightly older policies, each learnt from once: rollout workers do not wait for their learner.

    next() --publish(version), take--> pool: every worker has `in_flight` rollouts in work or waiting
           <--trajectories [T, n, ...] with the version that they were ordered with--
           --prepare--> rows of one environment each --> pending, oldest version first --> batch of B rows
                                                          `-> dropped, when older than max_lag

The version is the number of batches drawn so far, and a row's lag is that number when it is learnt from less that when
it was ordered. With W workers of n = N / W environments and F rollouts in flight, at most B - 1 + n rows are pending
when a rollout is ordered, W F - 1 rollouts come before it, and its own last row is the n-th, so that in fixed order

    lag <= ceil((B - 1 + n + (W F - 1) n + n) / B) - 1 = ceil((F N + n - 1) / B).

In order of arrival a slow worker's rollouts may be older; `max_lag` bounds those too. In the learner's own process
(W = 1) a rollout is made when it is taken, with the weights of now: lag <= ceil((N - 1) / B), as with F = 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rayloom.config.sources import AsynchronousSourceConfig
from rayloom.contract import Algorithm, Batch
from rayloom.learner.group import Group
from rayloom.rollouts.pool import WorkerPool
from rayloom.rollouts.rollout import Rollout
from rayloom.sources.base import RolloutSource


@dataclass
class _Pending:
    """Rows of one rollout that wait to be learnt from."""

    rows: dict[str, Tensor]
    steps: np.ndarray
    """Valid transitions in each row."""
    version: int

    def __len__(self) -> int:
        return len(self.steps)

    def split(self, count: int) -> tuple[_Pending, _Pending]:
        """Return the first `count` rows and the rest."""
        first = {name: value[:count] for name, value in self.rows.items()}
        rest = {name: value[count:] for name, value in self.rows.items()}
        return _Pending(first, self.steps[:count], self.version), _Pending(rest, self.steps[count:], self.version)


class AsynchronousSource(RolloutSource):
    """Feeds one learner from rollout workers that run ahead of it."""

    def __init__(
        self,
        config: AsynchronousSourceConfig,
        pool: WorkerPool,
        algorithm: Algorithm,
        batch_size: int,
        device: torch.device,
        group: Group | None = None,
    ) -> None:
        """`config` and `batch_size`, which counts trajectories of one environment, are this learner's share."""
        super().__init__(pool, algorithm, batch_size, device, group)
        self._config = config
        self._pending: list[_Pending] = []  # by version, in order of arrival where that is equal
        self._draws = 0
        self._lags: Counter[int] = Counter()  # rows learnt from since the last report, by lag
        self._dropped = 0

    def next(self) -> Batch:
        """Return the oldest rows that are not too old, as soon as there are enough for a batch."""
        self._drop_stale()
        while sum(map(len, self._pending)) < self._batch_size:
            self._receive(self._take(self._config.rollout_steps, self._draws))
            self._drop_stale()
        parts = self._oldest(self._batch_size)
        for part in parts:
            self._lags[self._draws - part.version] += len(part)
            self._count(part)
            self._samples += int(part.steps.sum())
        self._draws += 1
        if len(parts) == 1:
            return parts[0].rows
        return {name: torch.cat([part.rows[name] for part in parts]) for name in parts[0].rows}

    def _receive(self, rollout: Rollout) -> None:
        """Put the rollout's rows behind those that are as old."""
        self._account(rollout)
        trajectory = self._as_tensors(rollout.arrays)
        self._show(trajectory)
        with torch.no_grad():
            rows = self._algorithm.prepare(trajectory)
        steps = rollout.arrays["valid"].sum(axis=0)
        assert all(len(value) == len(steps) for value in rows.values()), "a row is one environment's trajectory"
        self._pending.append(_Pending(rows, steps, rollout.version))
        self._pending.sort(key=lambda pending: pending.version)  # stable, and all but sorted

    def _drop_stale(self) -> None:
        """Drop what is older than `max_lag` updates; it counts as environment steps all the same."""
        oldest = self._draws - self._config.max_lag
        while self._pending and self._pending[0].version < oldest:
            stale = self._pending.pop(0)
            self._count(stale)
            self._dropped += len(stale)

    def _count(self, pending: _Pending) -> None:
        # Steps count once they are learnt from or dropped: a run of so many steps stops after whole updates, whatever
        # else is in flight.
        self._env_steps += int(pending.steps.sum())

    def _oldest(self, count: int) -> list[_Pending]:
        """Remove and return the first `count` rows of those that are pending."""
        parts = []
        while count:
            part = self._pending.pop(0)
            if len(part) > count:
                part, rest = part.split(count)
                self._pending.insert(0, rest)
            parts.append(part)
            count -= len(part)
        return parts

    def metrics(self) -> dict[str, float]:
        """Return statistics of the episodes, of the policy's lag (unit: updates) and of rows that were dropped."""
        values = {**super().metrics(), "dropped_trajectories": float(self._dropped)}
        if self._lags:
            values["policy_lag_mean"] = sum(lag * rows for lag, rows in self._lags.items()) / self._lags.total()
            values["policy_lag_max"] = float(max(self._lags))
        self._lags, self._dropped = Counter(), 0
        return values

    def barrier(self) -> None:
        """Restart the environments by a derived seed; what is in flight will still be learnt from."""
        self._drain()
        self._pool.barrier()

    def state_dict(self) -> dict[str, Any]:
        """Return counters, the workers, unreported lags and all rows that are still to be learnt from."""
        return {
            **super().state_dict(),
            "pending": [
                {"rows": dict(pending.rows), "steps": pending.steps.copy(), "version": pending.version}
                for pending in self._pending
            ],
            "draws": self._draws,
            "lags": dict(self._lags),
            "dropped": self._dropped,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self._pending = [
            _Pending(
                {str(name): value.to(self._device) for name, value in saved["rows"].items()},
                np.asarray(saved["steps"]),
                int(saved["version"]),
            )
            for saved in state["pending"]
        ]
        self._draws = int(state["draws"])
        self._lags = Counter({int(lag): int(rows) for lag, rows in state["lags"].items()})
        self._dropped = int(state["dropped"])
