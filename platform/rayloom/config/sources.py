"""Where a run's batches come from: the settings of every kind of source."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, MinLen

from rayloom.components import Component, Kinds, Shipped
from rayloom.config.augmentations import AUGMENTATIONS
from rayloom.source_settings import SourceConfig, StreamConfig, WorkerConfig

if TYPE_CHECKING:
    from pydantic import ConfigDict

STRICT: ConfigDict = {"extra": "forbid", "arbitrary_types_allowed": True, "allow_inf_nan": False}
"""What pydantic accepts: no unknown keys, no infinities."""


DATASETS = Kinds(
    "data set",
    {
        "digits": Shipped("rayloom.datasets.digits:load_digits"),
        "fashion-mnist": Shipped("rayloom.datasets.idx:load_fashion_mnist"),
        "mnist": Shipped("rayloom.datasets.idx:load_mnist"),
        "cifar10": Shipped("rayloom.datasets.cifar:load_cifar10"),
        "diabetes": Shipped("rayloom.datasets.small_tables:load_diabetes"),
        "breast-cancer": Shipped("rayloom.datasets.small_tables:load_breast_cancer"),
        "gaussian-grid": Shipped("rayloom.datasets.gaussian:load_grid"),
        "gaussian-ring": Shipped("rayloom.datasets.gaussian:load_ring"),
        "gaussian": Shipped("rayloom.datasets.gaussian:load_gaussian"),
        "sprinkler": Shipped("rayloom.datasets.causes:load_sprinkler"),
        "asia": Shipped("rayloom.datasets.causes:load_asia"),
        "tagged-grammar": Shipped("rayloom.datasets.tagged_grammar:load_tagged_grammar"),
        "image_folder": Shipped("rayloom.datasets.image_folder:load_image_folder"),
        "csv": Shipped("rayloom.datasets.tabular:load_csv"),
        "parquet": Shipped("rayloom.datasets.tabular:load_parquet"),
        "text": Shipped("rayloom.datasets.text:load_text"),
        "documents": Shipped("rayloom.datasets.text:load_documents"),
        "python-source": Shipped("rayloom.datasets.python_source:load_python_source"),
        "arrays": Shipped("rayloom.datasets.arrays:load_arrays"),
    },
    own='a function make(config, seed) that is marked with @component("data set", Config)',
)
"""Data to learn from: each makes a `rayloom.datasets.Dataset` from its settings and the run's seed."""


@dataclass(frozen=True, kw_only=True)
class TimeLimitConfig:
    """Truncate episodes after a number of steps."""

    __pydantic_config__ = STRICT
    max_episode_steps: Annotated[int, Ge(1)]
    """Longest episode (unit: env_steps)."""


@dataclass(frozen=True, kw_only=True)
class ClipRewardConfig:
    """Clip rewards, as Mnih et al. 2015 do."""

    __pydantic_config__ = STRICT
    low: float = -1.0
    """Least reward."""
    high: float = 1.0
    """Largest reward."""


@dataclass(frozen=True, kw_only=True)
class SelectObservationConfig:
    """Show only some elements of a vector observation: positions without velocities."""

    __pydantic_config__ = STRICT
    elements: Annotated[tuple[Annotated[int, Ge(0)], ...], MinLen(1)]
    """Which ones, counted from 0."""


@dataclass(frozen=True, kw_only=True)
class RescaleActionConfig:
    """Give real actions another range, which is stretched to the environment's own."""

    __pydantic_config__ = STRICT
    low: float = -1.0
    """Least action."""
    high: float = 1.0
    """Largest action."""


@dataclass(frozen=True, kw_only=True)
class TimeFeatureConfig:
    """Add the share of its time that an episode has left to a vector observation (Pardo et al. 2018)."""

    __pydantic_config__ = STRICT
    max_episode_steps: Annotated[int, Ge(1)]
    """Steps after which nothing is left; the environment's own limit, or that of a `time_limit` (unit: env_steps)."""


WRAPPERS = Kinds(
    "wrapper",
    {
        "time_limit": Shipped("rayloom.rollouts.wrappers:TimeLimit", TimeLimitConfig),
        "clip_reward": Shipped("rayloom.rollouts.wrappers:ClipReward", ClipRewardConfig),
        "rescale_action": Shipped("rayloom.rollouts.wrappers:RescaleAction", RescaleActionConfig),
        "select_observation": Shipped("rayloom.rollouts.wrappers:SelectObservation", SelectObservationConfig),
        "time_feature": Shipped("rayloom.rollouts.wrappers:TimeFeature", TimeFeatureConfig),
    },
    own="a subclass of gymnasium.Wrapper",
    base="gymnasium:Wrapper",
    keywords=True,
)
"""Wrappers around single environments; one's own is called with its settings, where it has a Config, and the
environment, or else with the environment and keyword arguments."""


@dataclass(frozen=True, kw_only=True)
class DatasetSourceConfig(SourceConfig):
    """Batches from a data set, reshuffled every epoch."""

    __pydantic_config__ = STRICT
    kind: Literal["dataset"]
    """Selects this source."""
    dataset: Annotated[Component, DATASETS]
    """A data set: its kind (`rayloom list`), or a mapping of `kind` or `import` and its settings."""
    order: Literal["shuffled", "streams"] = "shuffled"
    """streams: the rows are the pieces of one long text, which is cut into `learner.batch_size` streams; each row of a
    batch goes on where the same row of the batch before ended. Batches then have the fields `stream` [B] (int64), its
    number, and `first` [B] (bool), whether it begins, which it does in every epoch."""
    drop_last: bool = True
    """Leave out an epoch's last batch when it is smaller than `learner.batch_size`."""
    augment: tuple[Annotated[Component, AUGMENTATIONS], ...] = ()
    """What is done to every image, one after the other: `[shift, {kind: cutout, size: 6}]`."""
    resident_mib: Annotated[float, Ge(0)] = 1024.0
    """A training split of at most this size lies on the learner's device; batches of a larger one are read while the
    learner works (unit: MiB)."""
    read_ahead: Annotated[int, Ge(0)] = 4
    """Batches that a thread reads ahead of the learner; 0: the learner reads them itself. Changes no batch."""


@dataclass(frozen=True, kw_only=True)
class EnvironmentFields(WorkerConfig):
    """What every source with environments has in common."""

    env: str
    """Gymnasium id, optionally "module:id"."""
    env_options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the environment."""
    vectorization: Literal["auto", "loop", "envpool"] = "auto"
    """How the environments of one process are stepped. auto: by a vector environment that the id has of its own (as
    CartPole and Atari), else one after the other, as `loop` always does. envpool: in C++ by envpool, which has its own
    version of most ids (the extra `envpool`); never chosen by itself, for installing a package should change no run."""
    inference: Literal["worker", "central"] = "worker"
    """Who chooses actions: each rollout worker, or the learner's process on its device for all of them at once, which
    suits large networks and images. For workers that run ahead a thread of that process does it, in fixed order."""
    check_observations: bool = True
    """End the run when an observation leaves its space (NaN always ends it)."""
    wrappers: tuple[Annotated[Component, WRAPPERS], ...] = ()
    """Gymnasium wrappers around each single environment, the innermost first: `{kind: time_limit, ...}` for a shipped
    one, `{import: "module:Wrapper", ...}` for another, with its settings."""
    info_fields: tuple[str, ...] = ()
    """Fields of `info`, such as action_mask, that become parts of the observation; every reset and step must give
    them."""
    frame_stack: Annotated[int, Ge(1)] = 1
    """Observations that the agent sees at once, the present one last: [k, ...]. Before an episode's start its first one
    is repeated. Replay stores each of them once."""


@dataclass(frozen=True, kw_only=True)
class OnPolicySourceConfig(EnvironmentFields):
    """Fresh rollouts of the current policy, walked through several times."""

    __pydantic_config__ = STRICT
    kind: Literal["on_policy"]
    """Selects this source."""
    rollout_steps: Annotated[int, Ge(1)] = 256
    """Steps of each environment between two policy updates."""
    epochs: Annotated[int, Ge(1)] = 10
    """Passes over each rollout, in batches of `learner.batch_size`."""

    def updates_of(self, env_steps: int, batch_size: int) -> float | None:
        """Return the updates of whole rollouts: a remainder of less than half a batch is left out."""
        rows = self.num_envs * self.rollout_steps
        return env_steps / rows * self.epochs * math.floor(rows / batch_size + 0.5)


@dataclass(frozen=True, kw_only=True)
class ReplaySourceConfig(EnvironmentFields, StreamConfig):
    """Random batches from a ring buffer of past transitions."""

    __pydantic_config__ = STRICT
    kind: Literal["replay"]
    """Selects this source."""
    capacity: Annotated[int, Ge(1)] = 100_000
    """Transitions kept."""
    learning_starts: Annotated[int, Ge(1)] = 1_000
    """Environment steps before the first update (unit: env_steps)."""
    steps_per_update: Annotated[float, Gt(0)] = 4
    """Environment steps per update (unit: env_steps)."""
    collect_steps: Annotated[int, Ge(1)] = 1
    """Steps of each environment in one call of a rollout worker (unit: vector steps)."""
    n_step: Annotated[int, Ge(1)] = 1
    """Length of the sampled reward segments (unit: steps)."""
    sequence_length: Annotated[int, Ge(0)] = 0
    """Sample sequences of so many steps [B, L, ...] with `valid` and `first` instead of segments; 0: segments."""
    burn_in: Annotated[int, Ge(0)] = 0
    """Steps of the same episode before each sequence, marked `burn_in`, to warm up a recurrent state (unit: steps)."""
    whole_episodes: bool = False
    """Each sequence is one episode from its first step, cut off after `sequence_length` steps."""
    prioritized: bool = False
    """Sample by priority (Schaul et al. 2016) instead of uniformly."""
    priority_exponent: Annotated[float, Ge(0), Le(1)] = 0.6
    """alpha: 0 is uniform."""
    importance_exponent: tuple[Annotated[float, Ge(0), Le(1)], Annotated[float, Ge(0), Le(1)]] = (0.4, 1.0)
    """beta at the start and at the end of the run."""

    def updates_of(self, env_steps: int, batch_size: int) -> float | None:
        """Return the updates after `learning_starts`."""
        return max(0, env_steps - self.learning_starts) / self.steps_per_update


@dataclass(frozen=True, kw_only=True)
class AsynchronousSourceConfig(EnvironmentFields, StreamConfig):
    """Rollouts of slightly older policies, each learnt from once; workers do not wait for the learner."""

    __pydantic_config__ = STRICT
    kind: Literal["asynchronous"]
    """Selects this source."""
    rollout_steps: Annotated[int, Ge(1)] = 20
    """Steps of each environment in one trajectory; `learner.batch_size` counts trajectories of one environment."""
    in_flight: Annotated[int, Ge(1)] = 2
    """Rollouts that every worker is ahead of the learner, in work or waiting to be learnt from."""
    max_lag: Annotated[int, Ge(0)] = 16
    """Trajectories whose policy is older are dropped (unit: updates)."""

    def updates_of(self, env_steps: int, batch_size: int) -> float | None:
        """Return the updates where no trajectory is dropped."""
        return env_steps / (self.rollout_steps * batch_size)


SOURCES = Kinds(
    "source",
    {
        "dataset": Shipped("rayloom.sources.dataset:DatasetSource", DatasetSourceConfig),
        "on_policy": Shipped("rayloom.sources.on_policy:OnPolicySource", OnPolicySourceConfig),
        "replay": Shipped("rayloom.sources.replay:ReplaySource", ReplaySourceConfig),
        "asynchronous": Shipped("rayloom.sources.asynchronous:AsynchronousSource", AsynchronousSourceConfig),
    },
    own="a subclass of rayloom.contract.Source",
    base="rayloom.contract.source:Source",
)
"""Where batches come from."""
