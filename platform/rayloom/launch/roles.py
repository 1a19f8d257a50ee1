"""A run's learner role, in this process or as actors: the one place that decides which."""

from __future__ import annotations

from dataclasses import replace

from rayloom.config.schema import RunConfig
from rayloom.runs.learner_role import LearnerRole
from rayloom.runs.loop import Role
from rayloom.runs.plan import Plan


def make_role(config: RunConfig, plan: Plan, resumed: bool = False, begins: bool = True) -> Role:
    """Return the learner's role, here or as an actor, with its workers.

    A run that is `resumed` makes do with a cluster that has become smaller. `begins`: it starts here and not
    from a checkpoint.
    """
    if not plan.uses_ray:
        alone = replace(config, learner=replace(config.learner, count=1))
        if (workers := config.workers()) is not None:
            # One worker in this process steps all environments.
            alone = replace(alone, source=replace(workers, rollout_workers=0))
        return LearnerRole(alone, begins=begins)
    from rayloom.cluster.ray_role import make_ray_role

    return make_ray_role(config, plan, resumed, begins)
