"""One rule: gather, add up over all learners, apply. No gradient.

    over batch:  every batch --gather--> sums --all-reduce--> apply
    over epoch:  every batch --gather--> partial sums --at the end of a pass: all-reduce--> apply

Real sums are added up in float64, so that a pass in a thousand batches equals one over the whole data.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rayloom.contract import Batch, Gathered, Rule
from rayloom.learner.checks import check_applied, check_gathered, rows_of
from rayloom.learner.group import Group


class Taken(NamedTuple):
    """What one step of a rule tells."""

    metrics: Mapping[str, Tensor]
    """Of the batch, [B] or scalar."""
    elements: Tensor | None
    """How many elements each example stands for, [B]."""
    changed: Mapping[str, Tensor]
    """Of the change, scalars; empty where there was none."""


class RuleLearner:
    """One rule with what it has gathered of the present pass."""

    def __init__(self, rule: Rule, group: Group) -> None:
        self.rule = rule
        self.group = group
        self._checked = False
        self._checked_change = False
        self._types: dict[str, torch.dtype] = {}
        self._restart()

    def _restart(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count = 0.0
        self._drawn = self._gathered = 0
        self._ended = False

    def drawn(self, ends: bool) -> None:
        """Hear of every batch that is drawn, whoever learns from it, and whether it ends a pass."""
        if self._ended:
            self._restart()
        self._drawn += 1
        self._ended = ends

    @torch.no_grad()
    def step(self, batch: Batch) -> Taken:
        """Gather, and apply what is due."""
        found = self.rule.gather(batch)
        if not self._checked:
            check_gathered(self.rule, found, batch)
            self._checked = True
        count = float(rows_of(batch)) if found.count is None else float(found.count.sum(dtype=torch.float64))
        if self.rule.over == "batch":
            changed = self._apply(found.sums, count)
        else:
            self._add(found, count)
            # Of a pass that the rule has not seen from its beginning there are no sums to apply.
            changed = self._apply(self._sums, self._count) if self._ended and self._gathered == self._drawn else {}
        return Taken(found.metrics, found.count, changed)

    def _add(self, found: Gathered, count: float) -> None:
        self._gathered += 1
        self._count += count
        for name, value in found.sums.items():
            self._types[name] = value.dtype
            wide = value.to(_wide(value.dtype), copy=True)
            self._sums[name] = self._sums[name].add_(wide) if name in self._sums else wide

    def _apply(self, sums: Mapping[str, Tensor], count: float) -> Mapping[str, Tensor]:
        total, count = add_up(self.group, sums, count)
        if self.rule.over == "epoch":
            total = {name: value.to(self._types.get(name, value.dtype)) for name, value in total.items()}
        changed = self.rule.apply(total, count)
        if not self._checked_change:
            check_applied(self.rule, changed)
            self._checked_change = True
        return changed or {}

    def state_dict(self) -> dict[str, Any]:
        """Return what this learner has gathered of the present pass."""
        return {
            "sums": dict(self._sums),
            "types": {name: str(dtype).removeprefix("torch.") for name, dtype in self._types.items()},
            "count": self._count,
            "drawn": self._drawn,
            "gathered": self._gathered,
            "ended": self._ended,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        device = self.rule.changes[0].device
        self._sums = {str(name): value.to(device) for name, value in state["sums"].items()}
        self._types = {str(name): getattr(torch, dtype) for name, dtype in state["types"].items()}
        self._count = float(state["count"])
        self._drawn, self._gathered = int(state["drawn"]), int(state["gathered"])
        self._ended = bool(state["ended"])


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which sums are added up."""
    if dtype.is_complex:
        return torch.complex128
    return torch.float64 if dtype.is_floating_point else torch.int64


def add_up(group: Group, sums: Mapping[str, Tensor], count: float) -> tuple[dict[str, Tensor], float]:
    """Return the sums and the count over all learners, the sums in the types that they come in."""
    if group.world_size == 1:
        return dict(sums), count
    device = next((value.device for value in sums.values()), torch.device("cpu"))
    wide = {name: value.to(_wide(value.dtype)) for name, value in sums.items()}
    parts = {name: torch.view_as_real(value) if value.is_complex() else value for name, value in wide.items()}
    reals = [name for name, value in parts.items() if value.is_floating_point()]
    flat = torch.tensor([count], dtype=torch.float64, device=device)
    flat = torch.cat([flat, *(parts[name].reshape(-1) for name in reals)])
    group.all_reduce(flat)
    total = _uncut(flat[1:], reals, parts)
    whole = [name for name in parts if name not in reals]
    if whole:
        integers = torch.cat([parts[name].reshape(-1) for name in whole])
        group.all_reduce(integers)
        total |= _uncut(integers, whole, parts)
    for name, value in wide.items():
        if value.is_complex():
            total[name] = torch.view_as_complex(total[name])
    return {name: total[name].to(value.dtype) for name, value in sums.items()}, float(flat[0])


def _uncut(flat: Tensor, names: Sequence[str], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    ends = itertools.accumulate(like[name].numel() for name in names)
    return {
        name: flat[end - like[name].numel() : end].view(like[name].shape) for name, end in zip(names, ends, strict=True)
    }
