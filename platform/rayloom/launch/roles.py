"""A run's learner role, in this process or as actors: the one place that decides which."""

from __future__ import annotations

from dataclasses import replace

from rayloom.config.schema import RunConfig
from rayloom.config.sources import DatasetSourceConfig
from rayloom.runs.learner_role import LearnerRole
from rayloom.runs.loop import Role
from rayloom.runs.plan import Plan


def make_role(config: RunConfig, plan: Plan, resumed: bool = False, begins: bool = True) -> Role:
    """Return the learner's role, here or as an actor, with its workers.

    A run that is `resumed` makes do with a cluster that has become smaller. `begins`: it starts here and not
    from a checkpoint.
    """
    if not plan.uses_ray:
        source = config.source
        if not isinstance(source, DatasetSourceConfig):
            source = replace(source, rollout_workers=0)  # one worker in this process steps all environments
        return LearnerRole(replace(config, learner=replace(config.learner, count=1), source=source), begins=begins)
    from rayloom.cluster.ray_role import make_ray_role

    return make_ray_role(config, plan, resumed, begins)
