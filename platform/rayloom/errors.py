"""What can go wrong with the parts of a run: the exceptions that the engine survives, and who can be struck."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from rayloom.redaction import redacted

_LONGEST_WORD, _LONGEST_SENTENCE = 150, 600
_LONG_WORD = re.compile(rf"[^\s/]{{{_LONGEST_WORD + 50},}}")  # a path is cut nowhere
_ENVIRONMENT_MARK = "rayloom_environment"


class RoleTimeoutError(RuntimeError):
    """A role did not answer before its deadline."""


class RoleDiedError(RuntimeError):
    """The process of a role is gone."""


class LearnersLostError(RuntimeError):
    """Learners died, hung or were cut off: the group goes on from its last checkpoint, if it may try again."""


class EnvironmentFault(RuntimeError):  # noqa: N818  (the environment is at fault, not the engine)
    """An environment broke its own promise: NaN, or an observation of another shape, type or range."""


def raised_by_environment(error: BaseException) -> bool:
    """Return whether an exception came out of an environment, by its type or by the mark that it was given there."""
    return isinstance(error, EnvironmentFault) or getattr(error, _ENVIRONMENT_MARK, False)


def mark_environment(error: BaseException, note: str) -> None:
    """Note which environment raised an exception, and when, unless that is known; the mark survives pickling."""
    if not raised_by_environment(error):
        error.add_note(note)
        setattr(error, _ENVIRONMENT_MARK, True)


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


class UserError(Exception):
    """A mistake that the user can mend. The command line prints its one sentence and ends with exit code 2.

    A URL in the sentence loses its password, and a long value that it quotes is cut.
    """

    def __init__(self, sentence: str = "") -> None:
        super().__init__(_shortened(redacted(sentence)))


def _shortened(sentence: str) -> str:
    """Cut what a sentence quotes to about a line."""
    sentence = _LONG_WORD.sub(lambda word: f"{word[0][:_LONGEST_WORD]}…", sentence)
    if len(sentence) <= _LONGEST_SENTENCE:
        return sentence
    return f"{sentence[: 2 * _LONGEST_SENTENCE // 3]} … {sentence[-_LONGEST_SENTENCE // 3 :]}"


class NotFiniteError(UserError, FloatingPointError):
    """A loss or weights have become NaN or infinite; a study counts the trial as failed."""


class MissingModule(UserError):  # noqa: N818  (a mistake of the user, named as what it is)
    """A config names a module that cannot be imported here."""
