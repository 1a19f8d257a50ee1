"""What each learner has of its own, dealt out to another number of learners.

- Rows of the buffers in `per_learner` are joined in the order of the ranks and cut anew.
- What rules have gathered of a pass, and metrics that no one has read yet, are sums: the first learner gets them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

State = dict[str, Any]


def reshard_own(states: Sequence[Mapping[str, Any]], count: int) -> list[State]:
    """Return the `Learner.own_state_dict` of `count` learners that continue those of `states`."""
    if len(states) == count:
        return [dict(state) for state in states]
    buffers = _cut([state["buffers"] for state in states], count)
    rules = [_gathered(list(each)) for each in zip(*(state["rules"] for state in states), strict=True)]
    sums = _added([state["sums"] for state in states])
    nothing = {name: [0.0, 0] for name in sums}
    return [
        {
            "buffers": buffers[rank],
            "rules": [_share_of_sums(rule, rank) for rule in rules],
            "sums": nothing if rank else sums,
        }
        for rank in range(count)
    ]


def _cut(buffers: Sequence[Mapping[str, Tensor]], count: int) -> list[dict[str, Tensor]]:
    """Join the rows of every buffer and cut them as `cut_buffers` does."""
    whole = {name: torch.cat([own[name].cpu() for own in buffers]) for name in buffers[0]}
    return [
        {name: value[len(value) * rank // count : len(value) * (rank + 1) // count] for name, value in whole.items()}
        for rank in range(count)
    ]


def _gathered(rules: Sequence[Mapping[str, Any]]) -> State:
    """Add up what the learners have gathered of one rule; nothing of a phase."""
    if not rules[0]:
        return {}
    sums: dict[str, Tensor] = {}
    for rule in rules:
        for name, value in rule["sums"].items():
            sums[name] = sums[name] + value.cpu() if name in sums else value.cpu()
    return {**rules[0], "sums": sums, "count": sum(rule["count"] for rule in rules)}


def _share_of_sums(rule: State, rank: int) -> State:
    if not rule or rank == 0:
        return rule
    return {**rule, "sums": {name: torch.zeros_like(value) for name, value in rule["sums"].items()}, "count": 0.0}


def _added(sums: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, list[float]]:
    total: dict[str, list[float]] = {}
    for own in sums:
        for name, (value, count) in own.items():
            before = total.get(name, [0.0, 0])
            total[name] = [before[0] + value, before[1] + count]
    return total


def whole_state(role: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the state of the algorithm's module from that of a run's role, with the rows of all learners."""
    states = [role, *role.get("others", [])]
    (buffers,) = _cut([state["own"]["buffers"] for state in states], 1)
    return {**role["learner"]["algorithm"], **buffers}
