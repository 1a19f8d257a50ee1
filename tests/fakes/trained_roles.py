"""A run's learner, trained to the end of its budget without evaluations, files or processes."""

from __future__ import annotations

from rayloom.config.schema import RunConfig
from rayloom.runs.learner_role import LearnerRole
from rayloom.runs.loop import make_schedule


def train_role(config: RunConfig, role: LearnerRole | None = None) -> LearnerRole:
    """Return the learner's role after the whole budget; `role`, where one is made already."""
    role = role or LearnerRole(config)
    schedule = make_schedule(config, role.updates_per_epoch())
    while not role.advance(schedule).exhausted:
        pass
    return role
