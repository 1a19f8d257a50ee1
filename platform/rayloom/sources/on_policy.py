"""Fresh rollouts of the current policy, walked through `epochs` times in shuffled batches.

    next() --publish(weights), collect--> rollout workers --trajectories--> prepare --rows--> batches

A rollout is never older than the weights that it trains: staleness is 0 updates at its first batch and
epochs * rows / batch_size - 1 at its last.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rayloom.checkpoint.random_state import generator_state, restore_generator
from rayloom.config.sources import OnPolicySourceConfig
from rayloom.contract import Batch, ReshardContext, SourceContext, deal
from rayloom.errors import UserError
from rayloom.rollouts.rollout import concatenate_rollouts
from rayloom.seeding import numpy_generator
from rayloom.sources.base import RolloutSource
from rayloom.sources.columns import Array, State


class OnPolicySource(RolloutSource):
    """Feeds one learner from its rollout workers."""

    Config = OnPolicySourceConfig
    kind = "on_policy"

    def __init__(self, config: OnPolicySourceConfig, context: SourceContext) -> None:
        """`config` and the context's batch size are this learner's share."""
        batch_size = context.batch_size
        if batch_size > config.num_envs * config.rollout_steps:
            raise UserError(
                f"learner.batch_size: {batch_size} is more than the {config.num_envs * config.rollout_steps} steps of "
                f"a rollout (source.num_envs * source.rollout_steps); lower it"
            )
        super().__init__(config, context)
        self._config = config
        self._rng = numpy_generator(context.seed, *self._address("on_policy", "shuffle"))
        self._rows: dict[str, Tensor] = {}
        self._batches: list[Tensor] = []
        self._batches_per_epoch = 0
        self._epochs_left = 0
        self.rollouts: int = 0
        self._collected = 0

    def next(self) -> Batch:
        """Return the next shuffled batch of rows; collect a fresh rollout when the last one is used up."""
        if not self._batches:
            if not self._epochs_left:
                self._collect()
            self._epochs_left -= 1
            order = self._rng.permutation(len(next(iter(self._rows.values()))))
            size = self._batch_size
            # Dead steps make the number of rows vary. Every batch has exactly batch_size rows all the same: the last
            # one is filled up from the start of the permutation, or a small remainder is left out until the next epoch.
            order = np.resize(order, self._batches_per_epoch * size)
            self._batches = list(torch.split(torch.from_numpy(order).to(self._device), size))
            self._batches.reverse()
        index = self._batches.pop()
        self._samples += len(index)
        if not self._batches and not self._epochs_left:
            # Steps count once they are learnt from, so that a run stops between two rollouts.
            self._env_steps = self._collected
        return {name: value.index_select(0, index) for name, value in self._rows.items()}

    def _collect(self) -> None:
        started = time.perf_counter()
        self._pool.publish(self.rollouts)
        rollouts = self._pool.collect(self._config.rollout_steps)
        self.wait_s += time.perf_counter() - started
        for rollout in rollouts:
            self._account(rollout)
            self._collected += rollout.env_steps
        trajectory = self._as_tensors(concatenate_rollouts(rollouts))
        self._show(trajectory)
        with torch.no_grad():
            self._rows = self._algorithm.prepare(trajectory)
        # As many batches on every learner, however their rows fell.
        (rows,) = self._group.sum_counts([len(next(iter(self._rows.values())))])
        self._batches_per_epoch = max(1, round(rows / (self._batch_size * self._group.world_size)))
        self.rollouts += 1
        self._epochs_left = self._config.epochs

    def state_dict(self) -> dict[str, Any]:
        """Return counters, generators, the workers and the rows that are still to be learnt from."""
        unused = bool(self._batches or self._epochs_left)
        return {
            **super().state_dict(),
            "rng": generator_state(self._rng),
            "rows": dict(self._rows) if unused else {},
            "batches": list(self._batches),
            "batches_per_epoch": self._batches_per_epoch,
            "epochs_left": self._epochs_left,
            "rollouts": self.rollouts,
            "collected": self._collected,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        restore_generator(self._rng, state["rng"])
        self._rows = {name: value.to(self._device) for name, value in state["rows"].items()}
        self._batches = [index.to(self._device) for index in state["batches"]]
        self._batches_per_epoch = int(state["batches_per_epoch"])
        self._epochs_left = int(state["epochs_left"])
        self.rollouts = int(state["rollouts"])
        self._collected = int(state["collected"])

    @classmethod
    def reshard(cls, states: Sequence[State], count: int, context: ReshardContext) -> list[State]:
        """Deal out the rows evenly, those that the present epoch has not seen yet apart from the others.

        The epoch's remaining batches are drawn anew from the former.
        """
        if len(states) == count:
            return list(states)
        shared = super().reshard(states, count, context)
        collected = deal(sum(int(state["collected"]) for state in states), count)
        rngs = [numpy_generator(context.seed, "on_policy", "shuffle", rank) for rank in range(count)]
        rows, order, unseen, remaining = _unseen_first(states, count, context)
        size = context.batch_size
        per_epoch = max(1, round(len(order) / size)) if rows else int(states[0]["batches_per_epoch"])
        dealt = []
        for rank in range(count):
            # Dealing them like cards gives everyone as many unseen rows, which come first, and as many in all.
            mine, number = torch.from_numpy(order[rank::count]), len(range(rank, unseen, count))
            batches = []
            if remaining:
                drawn = rngs[rank].permutation(number or len(mine))
                batches = list(
                    torch.split(torch.from_numpy(np.resize(drawn, remaining * size // count)), size // count)
                )
            dealt.append(
                {
                    **shared[rank],
                    "rng": generator_state(rngs[rank]),
                    "rows": {name: value.index_select(0, mine.to(value.device)) for name, value in rows.items()},
                    "batches": batches,
                    "batches_per_epoch": per_epoch,
                    "collected": collected[rank],
                }
            )
        return dealt


def _unseen_first(
    states: Sequence[State], count: int, context: ReshardContext
) -> tuple[dict[str, Tensor], Array, int, int]:
    """Return all rows, a random order of them, the number that this epoch has not seen, and its batches to come.

    The rows that it has not seen come first in the order.
    """
    if not states[0]["rows"]:
        return {}, np.arange(0), 0, 0
    rows = {name: torch.cat([state["rows"][name] for state in states]) for name in states[0]["rows"]}
    sizes = [len(next(iter(state["rows"].values()))) for state in states]
    starts = np.cumsum([0, *sizes])
    left = [
        start + index.cpu().numpy()
        for state, start in zip(states, starts[:-1], strict=True)
        for index in state["batches"]
    ]
    drawn = np.concatenate(left) if left else np.arange(0)
    unseen = np.unique(drawn)
    rng = numpy_generator(context.seed, "on_policy", "deal")
    order = np.concatenate([rng.permutation(unseen), rng.permutation(np.setdiff1d(np.arange(starts[-1]), unseen))])
    remaining = max(1, round(len(drawn) / context.batch_size)) if left else 0
    return rows, np.resize(order, max(len(order), count)), len(unseen), remaining
