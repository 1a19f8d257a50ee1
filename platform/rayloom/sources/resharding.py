"""Another number of learners or of rollout workers continues a run: the learners' states, dealt out anew.

    states of K learners --gather what each has of its own--> over the whole run --cut anew--> states of K' learners

Weights and optimisers are equal on all learners. Of what each has of its own nothing is lost: each source reshards its
states (`Source.reshard`), and here the rest is done. Rollout workers have an index over the whole run. The first ones
go on; further ones begin anew, with the seeds of the barrier that the others stand at, which no worker of their index
has used yet.

Generators whose environments have changed are derived from the seed tree, at the address ("reshard", updates,
learners): the same checkpoint continued by the same number of learners gives the same run. A pure function of states,
whose tensors the new states share.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from rayloom.config.schema import RunConfig
from rayloom.config.shares import learner_share
from rayloom.contract import ReshardContext
from rayloom.learner.resharding import reshard_own
from rayloom.seeding import derive_seed, torch_generator
from rayloom.sources.columns import State, cut


def reshard(before: RunConfig, after: RunConfig, states: Sequence[State]) -> list[State]:
    """Return the states of `after.learner.count` learners that continue those of `states`.

    `states` holds each learner's complete state, taken right after a barrier. The configs may differ in the numbers of
    learners and rollout workers; UserError where environments or the batch cannot be shared by the new ones. With equal
    numbers the states are returned as they are.
    """
    assert before.source_path == after.source_path and before.seed == after.seed
    count, updates = after.learner.count, int(states[0]["learner"]["updates"])
    learner_share(after)
    settings = after.workers()
    number = 0 if settings is None else settings.rollout_workers or count
    pools = [state["pool"]["workers"] for state in states if state["pool"] is not None]
    workers = [worker for pool in pools for worker in pool]
    if len(states) == count and len(workers) == number:
        return list(states)
    context = ReshardContext(
        config=after.source,
        batch_size=after.learner.batch_size,
        seed=derive_seed(after.seed, "reshard", updates, count),
        workers_before=len(workers),
        workers=number,
    )
    sources = after.source_class().reshard([state["source"] for state in states], count, context)
    assert len(sources) == count, "reshard returns one state for each learner"
    shares = cut(_workers(workers, context), count)
    kept = [state["random"] for state in states[:count]]
    kept += [_random_state(context.seed, "learner", rank) for rank in range(len(kept), count)]
    parts = reshard_own([state["own"] for state in states], count)
    pools = [{"workers": share, "turn": 0} if share else None for share in shares]
    return [
        {**states[0], "own": part, "source": source, "pool": pool, "random": state}
        for part, source, pool, state in zip(parts, sources, pools, kept, strict=True)
    ]


def _workers(workers: Sequence[State], context: ReshardContext) -> list[State]:
    """Return the rollout workers' states: those that there were, and new ones where there are more now."""
    if len(workers) == context.workers:
        return list(workers)
    # With other shares of the environments, what they kept of their own does not fit any more.
    there = [{name: value for name, value in worker.items() if name != "own"} for worker in workers]
    barriers = max(int(worker["barriers"]) for worker in workers)
    for index in range(len(there), context.workers):
        # Its environments' seeds are new: no worker of this index was there at this barrier. Its exploration's are
        # made so; `restarts` counts faults and stays true.
        generator = torch_generator(context.seed, "rollout", index, "explore").get_state()
        there.append({"barriers": barriers, "restarts": 0, "generator": generator})
    return there[: context.workers]


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
