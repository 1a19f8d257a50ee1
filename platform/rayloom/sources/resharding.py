"""Another number of learners or of rollout workers continues a run: the learners' states, dealt out anew.

    states of K learners --gather what each has of its own--> over the whole run --cut anew--> states of K' learners

Weights and optimisers are equal on all learners. Of what each has of its own nothing is lost:

- counters are dealt out evenly, so that their sums stay what they were;
- rollout workers have an index over the whole run. The first ones go on; further ones begin anew, with the seeds of the
  barrier that the others stand at, which no worker of their index has used yet;
- rows of an on-policy rollout are dealt out evenly, those that the present epoch has not seen yet apart from the
  others; the epoch's remaining batches are drawn anew from the former;
- replay buffers are cut by environment: every transition keeps its column, its order, its segment and its priority.
  Shards that have collected for different numbers of steps are aligned at their newest row, and the gaps before the
  oldest rows of the shorter ones are not valid, so that they are never drawn;
- trajectories that wait in an asynchronous source are dealt out by age, to everyone as many of each.

With another number of rollout workers, segments of a replay buffer may end before rollouts that were in flight (see
`by_other_workers`); they bootstrap there. Generators whose environments have changed are derived from the seed tree, at
the address ("reshard", updates, learners): the same checkpoint continued by the same number of learners gives the same
run. A pure function of states, whose tensors the new states share.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rayloom.checkpoint.random_state import generator_state
from rayloom.config.schema import RunConfig
from rayloom.config.shares import learner_share
from rayloom.config.sources import DatasetSourceConfig, EnvironmentSourceConfig
from rayloom.learner.resharding import reshard_own
from rayloom.seeding import derive_seed, numpy_generator, torch_generator
from rayloom.sources.columns import as_ring, blocks_in_time, by_other_workers, cut_columns

Array = npt.NDArray[Any]
State = dict[str, Any]


def reshard(before: RunConfig, after: RunConfig, states: Sequence[State]) -> list[State]:
    """Return the states of `after.learner.count` learners that continue those of `states`.

    `states` holds each learner's complete state, taken right after a barrier. The configs may differ in the numbers of
    learners and rollout workers; UserError where environments or the batch cannot be shared by the new ones. With equal
    numbers the states are returned as they are.
    """
    assert type(before.source) is type(after.source) and before.seed == after.seed
    count, updates = after.learner.count, int(states[0]["learner"]["updates"])
    own = [state["source"] for state in states]
    if isinstance(after.source, DatasetSourceConfig):
        same = len(states) == count
        sources = own[:1] * count  # the position in the data set is that of all learners together
    else:
        learner_share(after)
        workers = (after.source.rollout_workers or count) // count
        same = len(states) == count and all(len(source["pool"]["workers"]) == workers for source in own)
        sources = own if same else _Dealer(after, after.source, updates).sources(own)
    if same:
        return list(states)
    kept = [state["random"] for state in states[:count]]
    new = [_random_state(after.seed, "learner", r, "reshard", updates, count) for r in range(len(kept), count)]
    totals = _totals(after, states, sources)
    parts = reshard_own([state["own"] for state in states], count)
    return [
        {**states[0], "own": part, "source": source, "random": state, "totals": totals}
        for part, source, state in zip(parts, sources, kept + new, strict=True)
    ]


def _totals(after: RunConfig, states: Sequence[State], sources: Sequence[State]) -> dict[str, int] | None:
    """Return the counters over all learners as of the last update; None where one learner counts them alone."""
    if after.learner.count == 1 or isinstance(after.source, DatasetSourceConfig):
        return None
    if states[0]["totals"] is not None:
        return dict(states[0]["totals"])
    return {
        "updates": int(states[0]["learner"]["updates"]),
        "env_steps": sum(int(source["env_steps"]) for source in sources),
        "episodes": sum(int(source["statistics"]["episodes"]) for source in sources),
        "samples": sum(int(source["samples"]) for source in sources),
    }


def _random_state(seed: int, *place: str | int) -> State:
    """Return what `capture_random_state` would return in a process that was seeded at this place.

    A GPU's generator stays as the learner's construction has seeded it.
    """
    numpy_state = np.random.RandomState(derive_seed(seed, *place, "numpy") % 2**32).get_state(legacy=False)
    return {
        "python": random.Random(derive_seed(seed, *place, "python")).getstate(),
        "numpy": numpy_state,
        "torch": torch_generator(seed, *place, "torch").get_state(),
        "cuda": [],
    }


def deal(total: int, count: int) -> list[int]:
    """Return `count` shares of `total` that differ by one at most, the larger ones first.

    Of two totals the larger one's shares are nowhere smaller.
    """
    return [total // count + (rank < total % count) for rank in range(count)]


def _cut(items: Sequence[Any], count: int) -> list[list[Any]]:
    """Return the items in `count` even pieces, in their order."""
    ends = np.cumsum([0, *deal(len(items), count)])
    return [list(items[start:end]) for start, end in itertools.pairwise(ends)]


@dataclass(frozen=True)
class _Dealer:
    """Deals the states of sources with environments to other learners."""

    after: RunConfig
    source: EnvironmentSourceConfig
    updates: int

    @property
    def count(self) -> int:
        """Learners that go on."""
        return self.after.learner.count

    def sources(self, sources: Sequence[State]) -> list[State]:
        """Return the new learners' source states."""
        pools = self._pools([source["pool"] for source in sources])
        by_kind = {"on_policy": self._on_policy, "replay": self._replay, "asynchronous": self._asynchronous}
        own = by_kind[self.source.kind](sources)
        shared = self._counters(sources)
        return [{**a, **b, "pool": pool} for a, b, pool in zip(shared, own, pools, strict=True)]

    def _place(self, *path: str, rank: int) -> tuple[str | int, ...]:
        return (*path, rank, "reshard", self.updates, self.count)

    def _counters(self, sources: Sequence[State]) -> list[State]:
        """Return everything else with the counters and the unreported episodes dealt out."""
        count = self.count
        statistics = [source["statistics"] for source in sources]
        returns = _cut([value for part in statistics for value in part["returns"]], count)
        lengths = _cut([value for part in statistics for value in part["lengths"]], count)
        episodes = deal(sum(int(part["episodes"]) for part in statistics), count)
        env_steps = deal(sum(int(source["env_steps"]) for source in sources), count)
        samples = deal(sum(int(source["samples"]) for source in sources), count)
        return [
            {
                **sources[0],
                "statistics": {"returns": returns[rank], "lengths": lengths[rank], "episodes": episodes[rank]},
                "env_steps": env_steps[rank],
                "samples": samples[rank],
            }
            for rank in range(count)
        ]

    def _pools(self, pools: Sequence[State]) -> list[State]:
        """Return the rollout workers' states: those that there were, and new ones where there are more now."""
        workers = [worker for pool in pools for worker in pool["workers"]]
        number = self.source.rollout_workers or self.count
        barriers = max(int(worker["barriers"]) for worker in workers)
        for index in range(len(workers), number):
            # Its environments' seeds are new: no worker of this index was there at this barrier. Its exploration's are
            # made so; `restarts` counts faults and stays true.
            place = self._place("rollout", rank=index)
            generator = torch_generator(self.after.seed, *place, "explore").get_state()
            workers.append({**workers[0], "barriers": barriers, "restarts": 0, "generator": generator})
        return [{"workers": own, "turn": 0} for own in _cut(workers[:number], self.count)]

    # --- on-policy -------------------------------------------------------------------------------------------------

    def _on_policy(self, sources: Sequence[State]) -> list[State]:
        """Deal out the rows, those that this epoch has not seen yet first."""
        count = self.count
        if len(sources) == count:
            return list(sources)
        collected = deal(sum(int(source["collected"]) for source in sources), count)
        rngs = [numpy_generator(self.after.seed, *self._place("on_policy", "shuffle", rank=r)) for r in range(count)]
        rows, order, unseen, remaining = self._unseen_first(sources)
        size = self.after.learner.batch_size
        per_epoch = max(1, round(len(order) / size)) if rows else int(sources[0]["batches_per_epoch"])
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
                    "rng": generator_state(rngs[rank]),
                    "rows": {name: value.index_select(0, mine.to(value.device)) for name, value in rows.items()},
                    "batches": batches,
                    "batches_per_epoch": per_epoch,
                    "collected": collected[rank],
                }
            )
        return dealt

    def _unseen_first(self, sources: Sequence[State]) -> tuple[dict[str, torch.Tensor], Array, int, int]:
        """Return all rows, a random order of them, the number that this epoch has not seen, and its batches to come.

        The rows that it has not seen come first in the order.
        """
        if not sources[0]["rows"]:
            return {}, np.arange(0), 0, 0
        rows = {name: torch.cat([source["rows"][name] for source in sources]) for name in sources[0]["rows"]}
        sizes = [len(next(iter(source["rows"].values()))) for source in sources]
        starts = np.cumsum([0, *sizes])
        left = [
            start + index.cpu().numpy()
            for source, start in zip(sources, starts[:-1], strict=True)
            for index in source["batches"]
        ]
        drawn = np.concatenate(left) if left else np.arange(0)
        unseen = np.unique(drawn)
        rng = numpy_generator(self.after.seed, *self._place("on_policy", "deal", rank=0))
        order = np.concatenate([rng.permutation(unseen), rng.permutation(np.setdiff1d(np.arange(starts[-1]), unseen))])
        remaining = max(1, round(len(drawn) / self.after.learner.batch_size)) if left else 0
        return rows, np.resize(order, max(len(order), self.count)), len(unseen), remaining

    # --- replay ----------------------------------------------------------------------------------------------------

    def _replay(self, sources: Sequence[State]) -> list[State]:
        """Cut the buffers and the rollouts that were in flight anew, by environment."""
        count, number = self.count, max(1, self.source.rollout_workers // self.count)
        buffers = [source["buffer"] for source in sources]
        blocks = [block for buffer in buffers for block in blocks_in_time(buffer)]
        width = self.source.num_envs // (count * number)
        pieces = [cut_columns(blocks, index * width, (index + 1) * width) for index in range(count * number)]
        dealt = []
        for rank, drained in enumerate(self._drained_of_workers(sources)):
            rng = numpy_generator(self.after.seed, *self._place("replay", "sample", rank=rank))
            same = len(sources) == count  # then so are the environments
            buffer = {
                **buffers[0],
                **as_ring(pieces[rank * number : (rank + 1) * number], int(buffers[0]["rows"])),
                "rng": buffers[rank]["rng"] if same else generator_state(rng),
            }
            if not drained:
                # A source with rollouts in hand marks the barrier behind them; here nobody would.
                buffer["newest_ends"] = np.ones_like(buffer["newest_ends"])
            if "largest_priority" in buffer:
                buffer["largest_priority"] = max(float(old["largest_priority"]) for old in buffers)
            dealt.append({"buffer": buffer, "drained": drained})
        return dealt

    def _drained_of_workers(self, sources: Sequence[State]) -> list[list[State]]:
        """Return the rollouts that were in flight for the learners that now own their environments."""
        drained = [rollout for source in sources for rollout in source["drained"]]
        before = sum(len(source["pool"]["workers"]) for source in sources)
        number = self.source.rollout_workers or self.count
        if before != number:
            drained = by_other_workers(drained, before, number)
        # In turn, as the stream would have delivered them.
        turns: dict[int, int] = {}
        keyed = []
        for rollout in drained:
            worker = int(rollout["worker"])
            turns[worker] = turns.get(worker, -1) + 1
            keyed.append((turns[worker], worker, rollout))
        keyed.sort(key=lambda entry: entry[:2])
        share = number // self.count
        return [[rollout for _, worker, rollout in keyed if worker // share == rank] for rank in range(self.count)]

    # --- asynchronous ----------------------------------------------------------------------------------------------

    def _asynchronous(self, sources: Sequence[State]) -> list[State]:
        """Deal out the trajectories that wait, the oldest ones first, each rank as many of each age."""
        count = self.count
        drained = [rollout for source in sources for rollout in source["drained"]]
        drained.sort(key=lambda rollout: int(rollout["version"]))
        pending_rows: list[list[State]] = [[] for _ in range(count)]
        dealt = 0
        for version, rows, steps in _by_version([pending for source in sources for pending in source["pending"]]):
            for rank in range(count):
                mine = np.arange((rank - dealt) % count, len(steps), count)
                if len(mine):
                    index = torch.from_numpy(mine)
                    own = {name: value.index_select(0, index.to(value.device)) for name, value in rows.items()}
                    pending_rows[rank].append({"rows": own, "steps": steps[mine], "version": version})
            dealt += len(steps)
        lags: dict[int, list[int]] = {}
        for lag in sorted({int(lag) for source in sources for lag in source["lags"]}):
            lags[lag] = deal(sum(int(source["lags"].get(lag, 0)) for source in sources), count)
        dropped = deal(sum(int(source["dropped"]) for source in sources), count)
        return [
            {
                "drained": drained[rank::count],
                "pending": pending_rows[rank],
                "lags": {lag: shares[rank] for lag, shares in lags.items() if shares[rank]},
                "dropped": dropped[rank],
            }
            for rank in range(count)
        ]


def _by_version(pending_rows: Sequence[State]) -> Iterator[tuple[int, dict[str, torch.Tensor], Array]]:
    """Yield each policy's version with the rows that it collected and their numbers of steps, oldest first."""
    for version in sorted({int(pending["version"]) for pending in pending_rows}):
        same = [pending for pending in pending_rows if int(pending["version"]) == version]
        rows = {name: torch.cat([pending["rows"][name] for pending in same]) for name in same[0]["rows"]}
        yield version, rows, np.concatenate([np.asarray(pending["steps"]) for pending in same])
