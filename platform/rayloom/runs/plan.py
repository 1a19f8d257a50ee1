"""RunConfig to roles, counts and resources, as plain data that can be printed and tested."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from rayloom.config.schema import RunConfig
from rayloom.config.shares import learner_share
from rayloom.errors import UserError
from rayloom.runs.objectives import Objectives, read_objectives

RoleName = Literal["learner", "rollout", "evaluator"]


@dataclass(frozen=True)
class Bundle:
    """What one actor reserves, all of it on one node."""

    role: RoleName
    index: int
    """Number among the actors of its role."""
    cpus: float
    gpus: float

    @property
    def name(self) -> str:
        """How messages call the actor."""
        return {"learner": "learner", "rollout": "rollout worker", "evaluator": "evaluator"}[self.role] + (
            f" {self.index}" if self.role != "evaluator" else ""
        )


@dataclass(frozen=True)
class PlannedRole:
    """One kind of process of a run."""

    name: RoleName
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

    roles: tuple[PlannedRole, ...]
    waits: str | None = "evaluate.wait is true"
    """Why the training waits for evaluations; None: they are done beside it."""

    @property
    def uses_ray(self) -> bool:
        """Whether any role is an actor."""
        return any(role.place == "actor" for role in self.roles)

    def role(self, name: str) -> PlannedRole:
        """Return the role of that name."""
        return next(role for role in self.roles if role.name == name)

    def total(self, resource: Literal["cpus", "gpus"]) -> float:
        """Return what all actors reserve together."""
        return float(sum(role.count * getattr(role, resource) for role in self.roles if role.place == "actor"))

    def bundles(self) -> list[Bundle]:
        """Return what each actor reserves, learners first."""
        actors = [role for role in self.roles if role.place == "actor"]
        return [Bundle(role.name, index, role.cpus, role.gpus) for role in actors for index in range(role.count)]

    def describe(self) -> str:
        """Return a table of the roles."""
        lines = [f"{'role':<10} {'count':>5}  {'runs as':<18} {'cpus each':>9} {'gpus each':>9}"]
        for role in self.roles:
            place = {"driver": "driver's process", "actor": "Ray actor", "learner": "learner's process"}[role.place]
            lines.append(f"{role.name:<10} {role.count:>5}  {place:<18} {role.cpus:>9g} {role.gpus:>9g}")
        waits = "do not wait for evaluations" if self.waits is None else f"wait for evaluations, since {self.waits}"
        return "\n".join([*lines, f"learners {waits}"])


def make_plan(config: RunConfig, local: bool = False) -> Plan:
    """Return the plan of a run; `local` puts every role into the driver's process.

    There, one learner does the work of all: they share the batch, so that the run is the same up to rounding.
    """
    objectives = read_objectives(config)  # refuses metrics that nobody declares, before any work
    workers = config.workers()
    count = 1 if local else config.learner.count
    if count > 1:
        learner_share(config)
    learner_place: Literal["driver", "actor"] = "driver"
    if not local and (config.cluster.learner == "actor" or count > 1):
        learner_place = "actor"
    learner_cpus = config.learner.threads if config.learner.cpus is None else config.learner.cpus
    cpus = float(learner_cpus) if learner_place == "actor" else 0.0
    learner = PlannedRole("learner", count, learner_place, cpus, config.learner.gpus)
    roles = [learner]
    if workers is not None:
        if workers.rollout_workers and not local:
            number, each = workers.rollout_workers, (workers.worker_cpus, workers.worker_gpus)
            roles.append(PlannedRole("rollout", number, "actor", *each))
        else:
            roles.append(PlannedRole("rollout", count, "learner"))
    if config.cluster.evaluator == "actor" and not local:
        roles.append(PlannedRole("evaluator", 1, "actor", config.cluster.evaluator_cpus, config.cluster.evaluator_gpus))
    else:
        roles.append(PlannedRole("evaluator", 1, "driver"))
    plan = Plan(tuple(roles), _why_evaluations_wait(config, objectives, roles[-1].place == "actor"))
    _check_gpus(plan, config)
    return plan


def _why_evaluations_wait(config: RunConfig, objectives: Objectives, separate: bool) -> str | None:
    """Return what makes the training wait for evaluations; None when a `separate` evaluator may work beside it."""
    if config.evaluate.settings.wait:
        return "evaluate.wait is true"
    if not separate:
        return "there is no evaluator of its own (cluster.evaluator: actor)"
    for condition in objectives.stop:
        if condition.metric.startswith("evaluate/"):
            return f"stop needs {condition.metric} at its own step"
    if (objectives.best or "").startswith("evaluate/"):
        return f"checkpoint.best needs {objectives.best} at its own step"
    return None


_GPU_KEYS = {"learner": "learner.gpus", "rollout": "source.worker_gpus", "evaluator": "cluster.evaluator_gpus"}


def _check_gpus(plan: Plan, config: RunConfig) -> None:
    """Raise UserError for numbers of GPUs that cannot be assigned."""
    for role in plan.roles:
        if role.gpus > 1 and role.gpus != int(role.gpus):
            raise UserError(
                f"{_GPU_KEYS[role.name]}: {role.gpus:g} is neither a fraction of one GPU nor a whole number"
            )
    learner = plan.role("learner")
    if learner.place == "actor" and config.learner.device == "cuda" and not learner.gpus:
        raise UserError(
            "learner.gpus: a learner actor uses only GPUs that it has reserved; set it to 1, or to a fraction to share "
            "one, or set learner.device to auto"
        )


def cluster_address(config: RunConfig) -> str | None:
    """Return the address of the cluster that the run shall use; None for a Ray of its own."""
    return config.cluster.address or os.environ.get("RAY_ADDRESS")


_THREADS_PER_CPU = 8
"""More torch threads than that for each CPU are a mistake."""


def check_machine(plan: Plan, config: RunConfig) -> None:
    """Raise UserError when this machine cannot hold the plan; what a given cluster must hold, Ray is asked later."""
    on_cluster = plan.uses_ray and cluster_address(config) is not None
    _check_machine_gpus(plan, config, on_cluster)
    cpus = os.cpu_count() or 1
    if plan.role("learner").place == "driver" and config.learner.threads > _THREADS_PER_CPU * cpus:
        raise UserError(
            f"learner.threads: {config.learner.threads:,} threads on a machine with {cpus} CPUs would only fight; "
            f"write {cpus} or fewer"
        )
    if plan.uses_ray and not on_cluster and plan.total("cpus") > cpus:
        workers = any(role.name == "rollout" for role in plan.roles)
        key, way = (
            ("source.rollout_workers", "use fewer rollout workers, lower source.worker_cpus,")
            if workers
            else ("learner.count", "use fewer learners")
        )
        raise UserError(
            f"{key}: the plan reserves {plan.total('cpus'):g} CPUs but this machine has {cpus}; "
            f"{way} or run with --local"
        )


def _check_machine_gpus(plan: Plan, config: RunConfig, on_cluster: bool) -> None:
    """Raise UserError when this machine lacks the GPUs of the roles that run on it."""
    learner = plan.role("learner")
    here = [role for role in plan.roles if role.gpus and (role.place != "actor" or not on_cluster)]
    uses_one = learner.place == "driver" and config.learner.device == "cuda"
    if not here and not uses_one:
        return
    import torch

    available = torch.cuda.device_count()
    needed = sum(role.gpus * role.count for role in here)
    if available < needed or not available:
        key = _GPU_KEYS[here[0].name] if here else "learner.gpus"
        raise UserError(
            f"{key}: the run needs {needed or 1:g} GPU but this machine has {available}; "
            f"set {key} to 0{' and learner.device to cpu' if key == 'learner.gpus' else ''}"
        )
