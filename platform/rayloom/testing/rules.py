"""What rules must hold to: their sums add up over shards, gathering changes nothing, applying changes what it says."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
from torch import Tensor

from rayloom.config.schema import RunConfig
from rayloom.contract import Rule
from rayloom.learner.state import own_buffers, replace_buffer
from rayloom.runs.learner_role import LearnerRole
from rayloom.testing.failures import require
from rayloom.testing.roles import cut_noise, row_count, rule_learners, run_role
from rayloom.testing.row_noise import RowNoise

_ROWS = 32
_RELATIVE = 1e-4


def rules_add_up(config: RunConfig) -> str | None:
    """Check that a rule's sums over the shards of a batch are those of the batch, and what it changes."""
    with run_role(config) as role:
        rules = [learner.rule for learner in rule_learners(role)]
        if not rules:
            return "it has no rule"
        for _ in range(3):
            role.learner.update(role.source.next, role.source.feedback)
        batch = {name: value[:_ROWS] for name, value in role.source.next().items()}
        for index, rule in enumerate(rules):
            _check_sums(role, rule, index, batch)
            _check_changes(role, rule, batch)
    return None


def _check_sums(role: LearnerRole, rule: Rule, index: int, batch: Mapping[str, Tensor]) -> None:
    rows, before = row_count(batch), _state(role)
    own = own_buffers(role.algorithm)  # of which a shard's learner has its part, as of the batch
    with torch.no_grad(), RowNoise() as noise:

        def gather(start: int, end: int) -> tuple[dict[str, Tensor], float]:
            noise.shard(start, end - start)
            cut_noise(role, start, rows, index)
            for name, value in own.items():
                part = slice(len(value) * start // rows, len(value) * end // rows)
                replace_buffer(role.algorithm, name, value[part])
            found = rule.gather({name: value[start:end] for name, value in batch.items()})
            return dict(found.sums), float(end - start if found.count is None else found.count.sum())

        whole, count = gather(0, rows)
        parts = [gather(*cut) for cut in itertools.pairwise(sorted({0, rows // 6, rows // 3, rows}))]
        for name, value in own.items():
            replace_buffer(role.algorithm, name, value)
    changed = _first_change(before, _state(role))
    require(changed is None, f"rule {rule.name}: gather changes {changed!r}; change things in apply")
    for name, expected in whole.items():
        total = torch.stack([sums[name] for sums, _ in parts]).sum(0)
        size = float(expected.abs().max()) if expected.numel() else 0.0
        close = torch.allclose(total, expected, rtol=_RELATIVE, atol=_RELATIVE * max(size, 1e-6))
        require(
            close,
            f"rule {rule.name}: its sums {name!r} over a batch's shards add up to something else than over the whole "
            "batch: gather must sum over examples, not average, and no example may depend on the others",
        )
    total_count = sum(part for _, part in parts)
    require(
        abs(total_count - count) <= _RELATIVE * max(1.0, count),
        f"rule {rule.name}: its counts over the shards are {total_count:g}, over the whole batch {count:g}",
    )


def _check_changes(role: LearnerRole, rule: Rule, batch: Mapping[str, Tensor]) -> None:
    """Apply the same sums twice from the same state."""
    cut_noise(role, 0, row_count(batch), 0)
    with torch.no_grad():
        found = rule.gather(dict(batch))
        count = float(row_count(batch) if found.count is None else found.count.sum())
        before, own = _state(role), {tensor.data_ptr() for tensor in rule.changes}
        places = {name: value.data_ptr() for name, value in role.algorithm.state_dict().items()}
        after = []
        for _ in range(2):
            role.algorithm.load_state_dict(before)
            rule.apply({name: value.clone() for name, value in found.sums.items()}, count)
            after.append(_state(role))
    for name, value in before.items():
        moved = not torch.equal(value, after[0][name])
        require(not moved or places[name] in own, f"rule {rule.name}: apply changes {name!r}; name it in changes")
    differs = _first_change(*after)
    require(
        differs is None,
        f"rule {rule.name}: apply changes {differs!r} differently with equal sums: it must follow from them alone",
    )


def _state(role: LearnerRole) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in role.algorithm.state_dict().items()}


def _first_change(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> str | None:
    return next((name for name, value in before.items() if not torch.equal(value, after[name])), None)
