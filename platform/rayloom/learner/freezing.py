"""Parameters that a run leaves as they are: `learner.freeze`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from torch import nn

from rayloom.contract import Phase, Rule
from rayloom.errors import UserError


def without_frozen(module: nn.Module, steps: Sequence[Phase | Rule], patterns: Sequence[str]) -> list[Phase | Rule]:
    """Return phases without the parameters of `module` whose names fit a pattern; rules stay as they are.

    UserError when nothing fits a pattern, or when a phase has nothing left to train.
    """
    if not patterns:
        return list(steps)
    frozen: set[int] = set()
    for pattern in patterns:
        fitting = {id(parameter) for name, parameter in module.named_parameters() if fnmatchcase(name, pattern)}
        if not fitting:
            names = ", ".join(name for name, _ in module.named_parameters())
            raise UserError(f"learner.freeze: no parameter fits {pattern!r}; there are {names}")
        frozen |= fitting
    return [_thawed(step, frozen) if isinstance(step, Phase) else step for step in steps]


def _thawed(phase: Phase, frozen: set[int]) -> Phase:
    def left(parameters: Sequence[nn.Parameter]) -> tuple[nn.Parameter, ...]:
        return tuple(parameter for parameter in parameters if id(parameter) not in frozen)

    parameters = left(phase.parameters)
    if not parameters:
        raise UserError(f"learner.freeze: the phase {phase.name} has nothing left to train; freeze less")
    groups = tuple((left(members), settings) for members, settings in phase.groups)
    return replace(phase, parameters=parameters, groups=tuple(group for group in groups if group[0]))
