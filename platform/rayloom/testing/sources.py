"""What a source must hold to: the form of its batches, its state, and its shares among several learners."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rayloom.config.schema import RunConfig
from rayloom.contract import Batch, UserError
from rayloom.rollouts.pool import LocalPool
from rayloom.runs.learner_role import LearnerRole
from rayloom.seeding import seed_process
from rayloom.sources.resharding import reshard
from rayloom.testing.failures import require
from rayloom.testing.learners import simulate, simulated_group
from rayloom.testing.roles import row_count, run_role

_BATCHES = 4
_LEARNERS = 2


def _draw(role: LearnerRole) -> Batch:
    """Draw the next batch and learn from it, as replay with priorities expects."""
    drawn: list[Batch] = []

    def keep() -> Batch:
        drawn.append(role.source.next())
        return drawn[-1]

    role.learner.update(keep, role.source.feedback)
    return drawn[0]


def _check_batch(role: LearnerRole, batch: Any, number: int) -> None:
    name = type(role.source).__name__
    require(isinstance(batch, Mapping) and bool(batch), f"{name}.next must return tensors by name, not {batch!r:.80}")
    for field, value in batch.items():
        require(isinstance(value, Tensor), f"{name}.next: {field!r} must be a tensor, not a {type(value).__name__}")
        require(value.ndim > 0, f"{name}.next: {field!r} must have a row for each example, not the shape []")
    rows = {field: len(value) for field, value in batch.items()}
    first = next(iter(rows))
    for field, found in rows.items():
        require(found == rows[first], f"{name}.next: {field!r} has {found} rows and {first!r} {rows[first]}")
        value = batch[field]
        require(
            value.device.type == role.device.type,
            f"{name}.next: {field!r} lies on {value.device}, the learner on {role.device}; use context.device",
        )
        finite = not value.is_floating_point() or bool(torch.isfinite(value).all())
        require(finite, f"{name}.next: {field!r} of batch {number} is not finite")
    most = role.config.learner.batch_size
    require(
        0 < rows[first] <= most,
        f"{name}.next returns {rows[first]} examples; context.batch_size, which the config and the learning rate "
        f"count with, is {most}",
    )


def batches_fit(config: RunConfig) -> None:
    """Check the form of a source's batches, its counters and its metrics."""
    with run_role(config) as role:
        name, counters = type(role.source).__name__, dict(role.source.counters())
        for number in range(1, _BATCHES + 1):
            _check_batch(role, _draw(role), number)
            before, counters = counters, dict(role.source.counters())
            require(bool(counters), f"{name}.counters is empty: count samples, or env_steps and episodes")
            for unit, value in counters.items():
                require(isinstance(value, int), f"{name}.counters: {unit} must be an int, not a {type(value).__name__}")
                require(
                    value >= before.get(unit, 0), f"{name}.counters: {unit} fell from {before.get(unit, 0)} to {value}"
                )
            require(counters != before, f"{name}.counters are after {number} batches what they were before the last")
        for metric, measured in role.source.metrics().items():
            require(math.isfinite(measured), f"{name}.metrics: {metric} is {measured}")


def _require_equal(found: Batch, expected: Batch, number: int, promise: str) -> None:
    for field in expected:
        equal = field in found and torch.equal(found[field], expected[field])
        require(equal, f"{promise}: {field!r} of batch {number} is another one")


def sources_continue(config: RunConfig) -> None:
    """Check that a source goes on from its state with the batches that would have followed."""
    with run_role(config) as role:
        for _ in range(_BATCHES):
            _draw(role)
        state = copy.deepcopy(role.barrier_and_state())
        counters = dict(role.source.counters())
        expected = [_draw(role) for _ in range(_BATCHES)]
        name = type(role.source).__name__
    seed_process(99, "another process")
    with run_role(config) as again:
        again.load_state(state)
        require(
            dict(again.source.counters()) == counters,
            f"{name} counts {dict(again.source.counters())} from a state in which it had counted {counters}",
        )
        for number, batch in enumerate(expected, 1):
            promise = f"{name}, loaded from what state_dict returned, does not go on as it would have"
            _require_equal(_draw(again), batch, number, promise)


def _learners(config: RunConfig) -> list[LearnerRole]:
    """Build the roles of several learners, one after the other: they seed the process's generators."""
    several = replace(config, learner=replace(config.learner, count=_LEARNERS))
    return [LearnerRole(several, LocalPool, group) for group in simulated_group(_LEARNERS)]


def shares_differ(config: RunConfig) -> str | None:
    """Check that several learners draw examples of their own and can be dealt out anew."""
    try:
        roles = _learners(config)
    except UserError as error:
        return f"it refuses several learners ({error})"
    try:
        drawn = simulate(_LEARNERS, lambda group: [_draw(roles[group.rank]) for _ in range(_BATCHES)])
        name = type(roles[0].source).__name__
        for first, second in itertools.combinations(drawn, 2):
            differ = any(_differs(mine, theirs) for mine, theirs in zip(first, second, strict=True))
            require(
                differ,
                f"{name}: learners draw the same examples; put context.group.rank into the address of what is drawn, "
                "or let `share` cut the settings",
            )
        states = simulate(_LEARNERS, lambda group: copy.deepcopy(roles[group.rank].barrier_and_state()))
        before = _totals(roles)
    finally:
        for role in roles:
            role.close()
    several = replace(config, learner=replace(config.learner, count=_LEARNERS))
    try:
        (state,) = reshard(several, config, states)
    except UserError as error:
        return f"its learners cannot be dealt out anew ({error})"
    with run_role(config) as alone:
        alone.load_state(state)
        found = dict(alone.source.counters())
        require(found == before, f"{name}.reshard makes counters {found} of {before}: it must lose nothing")
        _check_batch(alone, _draw(alone), 1)
    return None


def _differs(mine: Batch, theirs: Batch) -> bool:
    if row_count(mine) != row_count(theirs):
        return True
    return any(not torch.equal(value, theirs[name]) for name, value in mine.items())


def _totals(roles: list[LearnerRole]) -> dict[str, int]:
    own = [dict(role.source.counters()) for role in roles]
    if not roles[0].source.counts_own:
        return own[0]
    return {unit: sum(counters[unit] for counters in own) for unit in own[0]}
