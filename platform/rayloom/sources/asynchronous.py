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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from rayloom.config.sources import AsynchronousSourceConfig
from rayloom.contract import Batch, Metric, ReshardContext, Rollout, SourceContext, deal
from rayloom.sources.base import RolloutSource
from rayloom.sources.columns import Array, State


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

    Config = AsynchronousSourceConfig
    kind = "asynchronous"
    reports: ClassVar[Mapping[str, Metric]] = {
        **RolloutSource.reports,
        "policy_lag_mean": Metric(better="min", unit="updates", meaning="age of the policies that are learnt from"),
        "policy_lag_max": Metric(better="min", unit="updates", meaning="age of the oldest of them"),
        "dropped_trajectories": Metric(better="min", meaning="too old to be learnt from"),
    }

    def __init__(self, config: AsynchronousSourceConfig, context: SourceContext) -> None:
        """`config` and the context's batch size, which counts trajectories of one environment, are its share."""
        super().__init__(config, context)
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
        """Keep what is in flight: it will still be learnt from."""
        self._drain()

    def state_dict(self) -> dict[str, Any]:
        """Return counters, unreported lags and all rows that are still to be learnt from."""
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

    @classmethod
    def reshard(cls, states: Sequence[State], count: int, context: ReshardContext) -> list[State]:
        """Deal out the trajectories that wait, the oldest ones first, each rank as many of each age."""
        shared = super().reshard(states, count, context)
        drained = [rollout for state in states for rollout in state["drained"]]
        drained.sort(key=lambda rollout: int(rollout["version"]))
        pending_rows: list[list[State]] = [[] for _ in range(count)]
        dealt = 0
        for version, rows, steps in _by_version([pending for state in states for pending in state["pending"]]):
            for rank in range(count):
                mine = np.arange((rank - dealt) % count, len(steps), count)
                if len(mine):
                    index = torch.from_numpy(mine)
                    own = {name: value.index_select(0, index.to(value.device)) for name, value in rows.items()}
                    pending_rows[rank].append({"rows": own, "steps": steps[mine], "version": version})
            dealt += len(steps)
        lags: dict[int, list[int]] = {}
        for lag in sorted({int(lag) for state in states for lag in state["lags"]}):
            lags[lag] = deal(sum(int(state["lags"].get(lag, 0)) for state in states), count)
        dropped = deal(sum(int(state["dropped"]) for state in states), count)
        return [
            {
                **shared[rank],
                "drained": drained[rank::count],
                "pending": pending_rows[rank],
                "lags": {lag: shares[rank] for lag, shares in lags.items() if shares[rank]},
                "dropped": dropped[rank],
            }
            for rank in range(count)
        ]


def _by_version(pending_rows: Sequence[State]) -> Iterator[tuple[int, dict[str, Tensor], Array]]:
    """Yield each policy's version with the rows that it collected and their numbers of steps, oldest first."""
    for version in sorted({int(pending["version"]) for pending in pending_rows}):
        same = [pending for pending in pending_rows if int(pending["version"]) == version]
        rows = {name: torch.cat([pending["rows"][name] for pending in same]) for name in same[0]["rows"]}
        yield version, rows, np.concatenate([np.asarray(pending["steps"]) for pending in same])
