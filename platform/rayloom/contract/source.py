"""What feeds a learner.

A source is one file: its settings, what it delivers, how it is shared and resharded, its batches and its state. The
engine's own are written so; one of yours is named by its import path and works wherever theirs do:

    @dataclass(frozen=True, kw_only=True)
    class NoisyLineConfig(SourceConfig):
        slope: float = 2.0
        \"""Slope of the line.\"""

    class NoisyLine(Source):
        Config = NoisyLineConfig

        def __init__(self, config, context):
            self.config, self.context, self.draws = config, context, 0

        @classmethod
        def describe(cls, config):
            return {name: TensorSpec(shape=(1,), dtype=torch.float32) for name in ("x", "y")}

        def next(self):
            address = ("batch", self.draws, self.context.group.rank)
            generator = torch.Generator().manual_seed(self.context.derive_seed(*address))
            x = torch.randn(self.context.batch_size, 1, generator=generator)
            self.draws += 1
            return self.context.algorithm.prepare({"x": x, "y": self.config.slope * x})

        def counters(self):
            return {"samples": self.draws * self.context.global_batch_size}

        def state_dict(self):
            return {"draws": self.draws}

        def load_state_dict(self, state):
            self.draws = state["draws"]

    source: {import: "my_sources:NoisyLine", slope: 3.0}
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from rayloom.contract.algorithm import Algorithm
from rayloom.contract.data import Batch, Metric, Spec
from rayloom.contract.steps import Loss
from rayloom.contract.workers import SourceWorker
from rayloom.errors import UserError
from rayloom.source_settings import SourceConfig


class Group(Protocol):
    """The learners of a run, as one of them sees it. All must call the same operations in the same order."""

    rank: int
    world_size: int

    def all_reduce(self, tensor: Tensor) -> None:
        """Sum the tensor over all learners, in place."""

    def sum_counts(self, counts: Sequence[int]) -> list[int]:
        """Return the sums of whole numbers over all learners."""


@dataclass(frozen=True, kw_only=True)
class SourceContext:
    """What the engine hands a learner's source."""

    algorithm: Algorithm
    """The learner's own: `prepare` turns what was collected into rows; `progress` says how far the run is."""
    batch_size: int
    """Examples of this learner's part of a batch."""
    global_batch_size: int
    """Examples of a batch over all learners (`learner.batch_size`)."""
    seed: int
    """The run's."""
    derive_seed: Callable[..., int]
    """Returns the seed of an address, independent of all others: derive_seed("batch", 7). What must differ between
    learners has `group.rank` in its address."""
    device: torch.device
    """Where batches have to lie."""
    group: Group
    """This learner among the others."""
    pool: Any = None
    """This learner's workers, a `WorkerPool`; None for a source without a `worker`. The engine restarts, saves and
    closes them."""
    data: Any = None
    """What `load_data` returned."""


@dataclass(frozen=True, kw_only=True)
class ReshardContext:
    """What the engine tells about the run whose sources are resharded."""

    config: Any
    """The source's settings, of the whole run as it goes on."""
    batch_size: int
    """Examples of a batch over all learners."""
    seed: int
    """Root of all chance in this resharding: the same states and numbers give the same run."""
    workers_before: int
    """Workers over all learners until now; 0 without a `worker`."""
    workers: int
    """Workers over all learners from now on."""


def deal(total: int, count: int) -> list[int]:
    """Return `count` shares of `total` that differ by one at most, the larger ones first.

    Of two totals the larger one's shares are nowhere smaller.
    """
    return [total // count + (rank < total % count) for rank in range(count)]


class Source(ABC):
    """Feeds one learner. Made as `Class(config, context)`: `config` is this learner's share of the settings.

    Owned and called by that learner's thread only; not thread-safe. `next` may block only while another role can make
    progress, and never without a deadline: `context.pool` has them; a source with threads, files or sockets of its own
    sets them itself, raises when one passes, and lets no thread touch the algorithm or draw from a global generator.
    """

    Config: ClassVar[type[SourceConfig]] = SourceConfig
    """Its settings: a frozen dataclass; with a `worker` a subclass of `WorkerConfig`."""
    kind: ClassVar[str | None] = None
    """The kind of batches that it delivers, in the words of `Algorithm.sources`; a config with an algorithm that does
    not list it is refused. None: not checked."""
    worker: ClassVar[type[SourceWorker] | None] = None
    """The class of its workers; None for a source that needs none."""
    equal_shares: ClassVar[bool] = True
    """Whether the learners' parts of a batch must be equally large (`learner.batch_size` a multiple of the count)."""
    counts_own: ClassVar[bool] = False
    """Whether `counters` are those of one learner alone, to be added up over all of them."""
    reports: ClassVar[Mapping[str, Metric]] = {}
    """What is known of what `metrics` returns, by name. A metric that stops a run must be here."""
    wait_s: float = 0.0
    """Seconds that `next` has spent on collecting experience, in all."""
    rollouts: int | None = None
    """How often `next` has exchanged all that it learns from for a fresh rollout; None where that never happens.
    `Phase.stop_above` needs it."""

    def __init__(self, config: Any, context: SourceContext) -> None:  # noqa: B027  what sources are made with
        """Begin before the first batch."""

    # --- before there is one: called on the class, in any process ---------------------------------------------------

    @classmethod
    def load_data(cls, config: Any, seed: int) -> Any:
        """Return a `rayloom.datasets.Dataset` to learn from and to evaluate on, once in each process; None: no data."""
        return None

    @classmethod
    @abstractmethod
    def describe(cls, config: Any) -> Spec:
        """Return the spec that the algorithm is made with; not called where there are data, which have one."""

    @classmethod
    def share(cls, config: Any, rank: int, count: int) -> Any:
        """Return the settings of learner `rank` of `count`: here, its part of the environments and workers.

        UserError where they cannot be shared. `num_envs` and `rollout_workers` are known to be multiples of `count`.
        """
        if cls.worker is None:
            return config
        return replace(config, num_envs=config.num_envs // count, rollout_workers=config.rollout_workers // count)

    @classmethod
    def reshard(cls, states: Sequence[dict[str, Any]], count: int, context: ReshardContext) -> list[dict[str, Any]]:
        """Return the states of `count` learners' sources that continue those of `states`, taken right after a barrier.

        A pure function that loses nothing: counters that are a learner's own (`counts_own`) keep their sums, see
        `deal`. The engine reshards the workers itself.
        """
        raise UserError(
            f"source: {cls.__name__} cannot go on with another number of learners or rollout workers; resume with as "
            "many as before"
        )

    @classmethod
    def frames(cls, config: Any, algorithm: Algorithm, seed: int, most: int) -> list[Any] | None:
        """Return at most `most` pictures (NumPy, uint8 [H, W, 3]) of what the policy does; None: it shows nothing."""
        return None

    # --- the stream of batches ---------------------------------------------------------------------------------------

    @abstractmethod
    def next(self) -> Batch:
        """Return the next training batch on the learner's device."""

    def feedback(self, loss: Loss) -> None:  # noqa: B027  optional
        """Take back what the learner computed for the batch that `next` returned last (priorities)."""

    def drawn(self, ago: int) -> Tensor | None:
        """Return which examples of the training data [B] this learner's part of an earlier batch had, in its order; 1:
        of the last one. None where they are no rows of a data set. Asked for only when the run is about to end."""
        return None

    def cut(self) -> tuple[int, int] | None:
        """Return which rows of the global batch `next` returned last, or prepares at the moment: (first, total).

        Noise is cut alike. None: every learner has as many rows, in the order of their ranks.
        """
        return None

    @abstractmethod
    def counters(self) -> dict[str, int]:
        """Return totals since the start of the run: env_steps, episodes, samples, epochs (those that apply)."""

    def samples_per_epoch(self) -> int | None:
        """Return the examples that one pass over the data delivers, over all learners; None without data."""
        return None

    def metrics(self) -> dict[str, float]:
        """Return and clear what happened since the last call, without prefix (return_mean, length_mean)."""
        return {}

    def spent(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return seconds by activity since the last call: of `next`, apart from preparing batches, and of the workers.

        For advice and pictures only; see `rayloom.timeline`.
        """
        return {"wait": 0.0}, {}

    # --- state -------------------------------------------------------------------------------------------------------

    def barrier(self) -> None:  # noqa: B027  optional
        """Bring everything that cannot be saved into a state that can: keep what `pool.drain` returns.

        The engine calls it at every checkpoint, in interrupted and uninterrupted runs alike, and then restarts the
        workers by a derived seed. Nothing may be in flight when it returns.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return the whole state, without the workers, as nested dicts of tensors, arrays, numbers and strings."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned; the next batch equals the one that would have followed."""

    def close(self) -> None:  # noqa: B027  optional
        """Release what the source itself has opened. Idempotent."""
