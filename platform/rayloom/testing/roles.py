"""A run's learner role while a check looks at it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor

from rayloom.config.schema import RunConfig
from rayloom.learner.phase import PhaseLearner
from rayloom.learner.rule import RuleLearner
from rayloom.runs.learner_role import LearnerRole

NO_PHASE = "no phase of it descends a loss"


@contextmanager
def run_role(config: RunConfig) -> Iterator[LearnerRole]:
    """Build everything of the run that learns, in this process, and close it afterwards."""
    role = LearnerRole(config)
    try:
        yield role
    finally:
        role.close()


def row_count(batch: Mapping[str, Tensor]) -> int:
    """Return the number of examples of a batch."""
    return len(next(iter(batch.values())))


def phase_learners(role: LearnerRole) -> list[PhaseLearner]:
    """Return the learners of the phases that descend a loss."""
    return [learner for learner in role.learner.phases if isinstance(learner, PhaseLearner)]


def rule_learners(role: LearnerRole) -> list[RuleLearner]:
    """Return the learners of the rules."""
    return [learner for learner in role.learner.phases if isinstance(learner, RuleLearner)]


def cut_noise(role: LearnerRole, first: int, total: int, index: int) -> None:
    """Let the next loss or rule, number `index`, draw the noise of a shard: rows from `first` on of `total`."""
    role.learner.noise.cut = lambda: (first, total)
    role.learner.noise.begin("shards", index)
