"""RunConfig to roles, counts and resources, as plain data that can be printed and tested."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from rayloom.config import DatasetSourceConfig, RunConfig
from rayloom.contract import UserError
from rayloom.rollout import learner_share


@dataclass(frozen=True)
class Role:
    """One kind of process of a run."""

    name: Literal["learner", "rollout", "evaluator"]
    count: int
    place: Literal["driver", "actor", "learner"]
    """In the driver's process, as Ray actors, or in the learner's process."""
    cpus: float = 0.0
    """CPUs that Ray reserves for each (actors only)."""
    gpus: float = 0.0
    """GPUs of each."""


@dataclass(frozen=True)
class Plan:
    """Who runs where."""

    roles: tuple[Role, ...]

    @property
    def uses_ray(self) -> bool:
        """Whether any role is an actor."""
        return any(role.place == "actor" for role in self.roles)

    def role(self, name: str) -> Role:
        """Return the role of that name."""
        return next(role for role in self.roles if role.name == name)

    def total(self, resource: Literal["cpus", "gpus"]) -> float:
        """Return what all actors reserve together."""
        return float(sum(role.count * getattr(role, resource) for role in self.roles if role.place == "actor"))

    def describe(self) -> str:
        """Return a table of the roles."""
        lines = [f"{'role':<10} {'count':>5}  {'runs as':<18} {'cpus each':>9} {'gpus each':>9}"]
        for role in self.roles:
            place = {"driver": "driver's process", "actor": "Ray actor", "learner": "learner's process"}[role.place]
            lines.append(f"{role.name:<10} {role.count:>5}  {place:<18} {role.cpus:>9g} {role.gpus:>9g}")
        return "\n".join(lines)


def make_plan(config: RunConfig, local: bool = False) -> Plan:
    """Return the plan of a run; `local` puts every role into the driver's process.

    There, one learner does the work of all: they share the batch, so that the run is the same up to rounding.
    """
    workers = 0 if isinstance(config.source, DatasetSourceConfig) else config.source.rollout_workers
    count = 1 if local else config.learner.count
    if count > 1:
        _check_shares(config)
    learner_place: Literal["driver", "actor"] = "driver"
    if not local and (config.cluster.learner == "actor" or count > 1):
        learner_place = "actor"
    cpus = float(config.learner.threads) if learner_place == "actor" else 0.0
    learner = Role("learner", count, learner_place, cpus, config.learner.gpus)
    roles = [learner]
    if not isinstance(config.source, DatasetSourceConfig):
        if workers and not local:
            roles.append(Role("rollout", workers, "actor", config.source.worker_cpus))
        else:
            roles.append(Role("rollout", count, "learner"))
    place = "driver" if local else config.cluster.evaluator
    roles.append(Role("evaluator", 1, place, 1.0 if place == "actor" else 0.0))
    return Plan(tuple(roles))


def _check_shares(config: RunConfig) -> None:
    """Raise UserError when the batch or the environments cannot be shared by the learners."""
    if not isinstance(config.source, DatasetSourceConfig):
        learner_share(config)
    elif config.learner.batch_size < config.learner.count:
        raise UserError(
            f"learner.batch_size: {config.learner.batch_size} is too small for the {config.learner.count} learners; "
            f"raise it"
        )


def check_machine(plan: Plan, config: RunConfig) -> None:
    """Raise UserError when this machine cannot hold the plan; what a given cluster must hold, Ray is asked later."""
    on_cluster = plan.uses_ray and bool(config.cluster.address or os.environ.get("RAY_ADDRESS"))
    if on_cluster and plan.role("learner").place == "actor":
        return  # the learner's GPU is another machine's
    if config.learner.device == "cuda" or config.learner.gpus > 0:
        import torch

        available = torch.cuda.device_count()
        needed = config.learner.gpus * plan.role("learner").count
        if available < max(needed, 1e-9):
            raise UserError(
                f"learner.gpus: the run needs {needed or 1:g} GPU but this machine has {available}; "
                f"set learner.gpus to 0 and learner.device to cpu"
            )
    cpus = os.cpu_count() or 1
    if plan.uses_ray and not on_cluster and plan.total("cpus") > cpus:
        raise UserError(
            f"source.rollout_workers: the plan reserves {plan.total('cpus'):g} CPUs but this machine has {cpus}; "
            f"use fewer rollout workers, lower source.worker_cpus, or run with --local"
        )
