"""Base of the settings of evaluations: the keys that the engine reads itself. Read without torch."""

from __future__ import annotations

from dataclasses import dataclass

from rayloom.errors import UserError


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Base of every evaluation's own settings; subclass it as a frozen dataclass with a docstring under each field."""

    every: str | int | None = None
    """Interval, as "5_000 env_steps" or "1 epochs"; null: only at the end."""
    wait: bool = True
    """false: an evaluator of its own (`cluster.evaluator: actor`) judges a copy of the weights while the training goes
    on, and what it finds is logged at their step. The training waits all the same where it must know: for `stop`,
    `checkpoint.best` or a study, and in one process."""
    deadline_s: float = 600.0
    """Longest time of one unit of work, a step of all environments, a batch, or a game (seconds)."""

    def __post_init__(self) -> None:
        """Refuse a deadline that nobody can keep (UserError)."""
        if self.deadline_s <= 0:
            raise UserError(f"evaluate.deadline_s: input should be greater than 0, not {self.deadline_s:g}")
