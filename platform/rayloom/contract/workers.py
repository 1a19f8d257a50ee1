"""Workers of a source: they produce experience with the current policy, next to the learner or in Ray actors.

    source --pool.publish(version), collect | take--> pool --collect(num_steps)--> workers, each with its policy
           <-------- Rollout, Rollout, ... ----------      <-------Rollout--------

The source names the class of its workers (`Source.worker`); the engine makes them, brings weights, seeds, replaces
those that die or hang, restarts them at each barrier and saves what has to be saved. With `rollout_workers: 0` each
learner has one worker in its own process, which sees the learner's own algorithm object.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from rayloom.contract.algorithm import Algorithm


@dataclass(frozen=True)
class Rollout:
    """What one call of `collect` returns."""

    arrays: dict[str, Any]
    """NumPy arrays by name. Sources with environments: time-major [T, N, ...] with the keys of a Trajectory; an own
    source and its worker agree on names and shapes."""
    episodes: list[tuple[float, int]]
    """Undiscounted return and length (steps) of every episode that ended, in order."""
    env_steps: int
    """Valid transitions among the T * N."""
    version: int = 0
    """The policy's version: what the source published last before the rollout was ordered. The engine fills it in, as
    all that follows but `seconds`."""
    worker: int = 0
    """The rollout worker's index over the whole run."""
    restarted: bool = False
    """Whether it does not continue the episodes of the worker's rollout before: the worker was replaced or, in a
    stream, restarted at a barrier."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """How the worker spent its time, by activity (seconds): a worker tells `step` and `inference`, the engine adds the
    rest; see `rayloom.timeline`. In the learner's own process the worker's `wait` is the learner's work."""
    memory_mib: float = 0.0
    """Size of the worker's process (MiB); 0 in the learner's own process."""


@dataclass(frozen=True, kw_only=True)
class WorkerContext:
    """What the engine hands a worker."""

    config: Any
    """The source's settings, of the whole run."""
    algorithm: Algorithm
    """The policy: `algorithm.act`, or whatever else the worker and its algorithm agree on. The engine puts new weights
    into it between two calls of `collect`, and calls its `after_publish`."""
    index: int
    """The worker's index over the whole run."""
    num_envs: int
    """This worker's share of the environments or games."""
    first: int
    """Index of the first of them over the whole run."""
    generator: torch.Generator
    """Source of chance for exploration. The engine saves it: it goes on over barriers."""


class SourceWorker(ABC):
    """Produces experience. Made, and then used by one thread, in the learner's process or in an actor.

    Subclasses keep no global state, and draw only from `context.generator` and from generators that `restart` seeds:
    so a seeded run repeats itself. A worker that does not answer a call within `cluster.deadline_s` is replaced by one
    with other seeds; an exception of its code ends the run with its traceback.
    """

    def __init__(self, context: WorkerContext) -> None:
        self.context = context

    @abstractmethod
    def restart(self, seed: int) -> None:
        """Begin everything anew, with generators seeded by `seed`: after construction and at every barrier."""

    @abstractmethod
    def collect(self, num_steps: int) -> Rollout:
        """Go on for `num_steps` steps with the present weights, without gradient, and return what happened."""

    def state_dict(self) -> dict[str, Any]:
        """Return what is to survive a barrier besides the generator; called right after `restart`."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027  optional
        """Restore what `state_dict` returned; called right after `restart`, and only where that was something."""

    def close(self) -> None:  # noqa: B027  optional
        """Release what the worker holds. Idempotent."""


class WorkerPool(Protocol):
    """The workers of one learner, as its source sees them. Every call that waits has a deadline.

    A pool is used in one of two ways: `collect` steps all workers together; `take` gives the next rollout of a stream
    that the workers produce ahead of the learner (`in_flight` > 0). A worker that dies, hangs or outgrows its memory is
    replaced; until there is room for its successor, the others go on without it.
    """

    def publish(self, version: int) -> None:
        """Make the learner's current weights the policy of `version` for the rollouts ordered from now on."""

    def collect(self, num_steps: int) -> list[Rollout]:
        """Step every environment `num_steps` times; one rollout of each worker that there is, in their order."""

    def take(self, num_steps: int) -> Rollout:
        """Return the next rollout of the stream, and order another one from its worker."""

    def order(self, num_steps: int, worker: int) -> None:
        """Order another rollout from a worker, one of whose was kept at a barrier and is used now."""

    def ready(self) -> bool:
        """Return whether `take` would return at once, in a stream in order of arrival."""

    def drain(self) -> list[Rollout]:
        """Return what is still in flight, and order nothing more; a later `order` or `take` begins the stream anew."""
