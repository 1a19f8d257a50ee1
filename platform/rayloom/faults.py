"""What can go wrong with the parts of a run: the exceptions that the engine survives, and who can be struck."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


class RoleTimeoutError(RuntimeError):
    """A role did not answer before its deadline."""


class RoleDiedError(RuntimeError):
    """The process of a role is gone."""


class LearnersLostError(RuntimeError):
    """Learners died, hung or were cut off: the group goes on from its last checkpoint, if it may try again."""


class EnvironmentFault(RuntimeError):  # noqa: N818  (the environment is at fault, not the engine)
    """An environment broke its own promise: NaN, or an observation of another shape, type or range."""


def raised_by_environment(error: BaseException) -> bool:
    """Return whether an exception came out of an environment, by its type or by the note that it was given there."""
    notes = getattr(error, "__notes__", ())
    return isinstance(error, EnvironmentFault) or any(
        " of rollout worker " in note and " raised " in note for note in notes
    )


@dataclass(frozen=True)
class Process:
    """One process of a run's roles."""

    role: Literal["learner", "rollout", "evaluator"]
    index: int
    pid: int
    node_id: str | None
    """Ray's node; None for the driver's own process."""
    created: float = 0.0
    """When it began (seconds since 1970), so that another process with the same id is not taken for it."""
