"""Whether an algorithm makes its tensors where it lies, asked without a second device.

torch's `meta` device has shapes and no values, and refuses to be mixed with the CPU's tensors as a GPU does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rayloom.config.schema import RunConfig
from rayloom.contract import Batch
from rayloom.runs.learner_role import LearnerRole
from rayloom.testing.failures import require
from rayloom.testing.roles import phase_learners, rule_learners, run_role

_ELSEWHERE = torch.device("meta")
_MIXED = ("is not on the expected device", "be on the same device", "found at least two devices")


class _NoiseElsewhere:
    """Zeros in the shapes of the engine's noise."""

    def normal(self, rows: int, *shape: int) -> Tensor:
        return torch.zeros((rows, *shape), device=_ELSEWHERE)

    uniform = normal

    def bernoulli(self, probability: Tensor) -> Tensor:
        return torch.zeros_like(probability)

    def permutation(self, rows: int) -> Tensor:
        return torch.arange(rows, device=_ELSEWHERE)


def tensors_share_a_device(config: RunConfig) -> str | None:
    """Check that losses, rules and `initialize` make their tensors on the device that the algorithm is on."""
    with run_role(config) as role:
        batch = {name: value.to(_ELSEWHERE) for name, value in role.source.next().items()}
        role.algorithm.to(_ELSEWHERE)
        role.algorithm.noise = _NoiseElsewhere()
        undecided = [name for name, work in _works(role, batch).items() if not _decided(name, work)]
    return f"torch cannot tell for {' and '.join(undecided)}" if undecided else None


def _works(role: LearnerRole, batch: Batch) -> dict[str, Callable[[], Any]]:
    """Return what makes tensors, by a name for messages."""
    works: dict[str, Callable[[], Any]] = {}
    for learner in phase_learners(role):
        works[f"phase {learner.phase.name}"] = partial(learner.phase.loss, batch)
    for rule in (learner.rule for learner in rule_learners(role)):
        works[f"rule {rule.name}"] = torch.no_grad()(partial(rule.gather, batch))
    data = None if role.dataset is None else role.dataset.train
    works["initialize"] = torch.no_grad()(partial(role.algorithm.initialize, data))
    return works


def _decided(name: str, work: Callable[[], Any]) -> bool:
    """Do it; tell whether it could be done without values. ConformanceError where devices are mixed."""
    try:
        work()
    except (RuntimeError, NotImplementedError) as error:  # torch's own words: it has no exception for either case
        message = str(error).partition("\n")[0]
        require(
            not any(words in message for words in _MIXED),
            f"{name}: a tensor is made on the CPU wherever the algorithm is, which fails on a GPU ({message}); "
            "say device= where it is made, or register it as a buffer",
        )
        return False
    return True
