"""What can go wrong with the parts of a run: the exceptions that the engine survives, and who can be struck."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


class RoleTimeoutError(RuntimeError):
    """A role did not answer before its deadline."""


class LearnersLostError(RuntimeError):
    """Learners died, hung or were cut off: the group goes on from its last checkpoint, if it may try again."""


@dataclass(frozen=True)
class Process:
    """One process of a run's roles."""

    role: Literal["learner", "rollout", "evaluator"]
    index: int
    pid: int
    node_id: str | None
    """Ray's node; None for the driver's own process."""
