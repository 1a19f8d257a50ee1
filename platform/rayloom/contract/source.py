"""What feeds a learner."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from rayloom.contract.data import Batch
from rayloom.contract.steps import Loss


class Source(ABC):
    """Feeds one learner. Owned and called by that learner's thread only; not thread-safe.

    `next` may block only while another role can make progress, and never without a deadline.
    """

    counts_own: bool = False
    """Whether `counters` are those of one learner alone, to be added up over all of them."""
    wait_s: float = 0.0
    """Seconds that `next` has spent on collecting experience, in all."""

    @abstractmethod
    def next(self) -> Batch:
        """Return the next training batch on the learner's device."""

    def feedback(self, loss: Loss) -> None:  # noqa: B027  optional
        """Take back what the learner computed for the batch that `next` returned last (priorities)."""

    def cut(self) -> tuple[int, int] | None:
        """Return which rows of the global batch `next` returned last, or prepares at the moment: (first, total).

        Noise is cut alike. None: every learner has as many rows, in the order of their ranks.
        """
        return None

    @abstractmethod
    def counters(self) -> dict[str, int]:
        """Return totals since the start of the run: env_steps, episodes, samples, epochs (those that apply)."""

    def metrics(self) -> dict[str, float]:
        """Return and clear what happened since the last call, without prefix (return_mean, length_mean)."""
        return {}

    def barrier(self) -> None:  # noqa: B027  optional
        """Bring everything that cannot be saved into a state that can: environments restart by a derived seed.

        The engine calls it at every checkpoint, in interrupted and uninterrupted runs alike.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return the whole state as nested dicts of tensors, arrays, numbers and strings."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned; the next batch equals the one that would have followed."""

    def close(self) -> None:  # noqa: B027  optional
        """Release environments and workers. Idempotent."""
