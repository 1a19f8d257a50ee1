"""Bases of the settings of sources: the keys that the engine reads itself. Read without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rayloom.errors import UserError

_MOST_ENVS = 65_536
"""Environments of one process."""


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Base of every source's own settings; subclass it as a frozen dataclass with a docstring under each field."""

    def updates_of(self, env_steps: int, batch_size: int) -> float | None:
        """Return about how many updates so many environment steps are learnt from in; None where it does not say."""
        return None


@dataclass(frozen=True, kw_only=True)
class WorkerConfig(SourceConfig):
    """Base of the settings of a source with workers: the engine reads these keys itself."""

    num_envs: int = 8
    """Environments or games over all workers."""
    rollout_workers: int = 0
    """Ray actors that produce experience; 0 does it in the learner's process."""
    worker_cpus: float = 1
    """CPUs that Ray reserves for each worker."""
    worker_gpus: float = 0
    """GPUs of each worker; fractions share one."""

    def __post_init__(self) -> None:
        """Refuse numbers that are too small (UserError)."""
        for name, least in (("num_envs", 1), ("rollout_workers", 0), ("worker_cpus", 0), ("worker_gpus", 0)):
            if not (value := getattr(self, name)) >= least:
                raise UserError(f"source.{name}: input should be greater than or equal to {least}, not {value}")
        workers = max(1, self.rollout_workers)
        if self.num_envs > _MOST_ENVS * workers:
            raise UserError(
                f"source.num_envs: {self.num_envs:,} environments are more than the {_MOST_ENVS:,} that one process "
                "steps; lower it, or raise source.rollout_workers"
            )


@dataclass(frozen=True, kw_only=True)
class StreamConfig(WorkerConfig):
    """Base of the settings of a source whose workers may run ahead of the learner (`WorkerPool.take`)."""

    in_flight: int = 0
    """Rollouts that every worker is ahead of the learner; 0: workers wait for the learner and it for them."""
    order: Literal["fixed", "arrival"] = "fixed"
    """fixed takes rollouts from the workers in turn, so that a seeded run repeats itself; arrival takes whichever is
    there first, which suits environments of unequal speed."""

    def __post_init__(self) -> None:
        """Refuse numbers that are too small (UserError)."""
        super().__post_init__()
        if self.in_flight < 0:
            raise UserError(f"source.in_flight: input should be greater than or equal to 0, not {self.in_flight}")
