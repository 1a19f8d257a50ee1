"""The contract between the engine and an algorithm: the one file that an algorithm author reads.

An algorithm is a `torch.nn.Module` that proposes losses; the engine does everything else. One training *update* is

    for phase in algorithm.phases():              # skipped unless update % phase.every == 0
        for each of phase.repeat steps:           # every repetition draws a fresh batch, a new phase reuses the last
            loss = phase.loss(batch)              # per-example losses [B]
            step = sum(weight * loss.per_example) / global number of examples  # by the learner
            backward, all-reduce, clip, optimiser step                         # by the learner
    algorithm.after_update(update)                # target networks

so that K shards of a batch give the same update as the whole batch. Batches come from a source: a data set
(`kind: dataset`), fresh rollouts (`kind: on_policy`), rollouts of slightly older policies (`kind: asynchronous`) or a
replay buffer (`kind: replay`).

Conventions: B examples of a batch, T time steps and N environments of a trajectory. Termination is a discount, never a
branch: gamma^n where the return bootstraps, 0 after a terminal state; a truncated episode bootstraps from its true
last observation. This file imports torch and the standard library only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from rayloom.errors import UserError as UserError  # authors import it from here

Batch = dict[str, Tensor]
"""Named tensors that share their first dimension [B, ...]. `weight` [B], where present, weighs each example's loss."""

Trajectory = dict[str, Tensor]
"""Time-major rollouts [T, N, ...] with the keys observation, action, reward, next_observation (the true one, also where
an episode ended), terminated, truncated, valid (False marks the dead step of a NEXT_STEP vector environment), and what
`act` returned as extras. A replay source hands `prepare` sampled segments instead: see `Algorithm.prepare`."""


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """Shape, type and range of one named tensor without its batch dimension.

    `num_values` is set for categories (class labels, discrete actions) and None for real vectors.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    num_values: int | None = None
    low: tuple[float, ...] | None = None
    """Smallest value of each element, flattened; None when unbounded or unknown."""
    high: tuple[float, ...] | None = None
    """Largest value of each element, flattened; None when unbounded or unknown."""


Spec = Mapping[str, TensorSpec]
"""What a source delivers: {"observation", "action"} for environments, the fields of the data set otherwise."""


@dataclass(frozen=True, kw_only=True)
class AlgorithmConfig:
    """Base of every algorithm's own settings; subclass it as a frozen dataclass with a docstring under each field."""


@dataclass(frozen=True)
class Loss:
    """What a phase proposes for one batch."""

    per_example: Tensor
    """The loss of each example, [B], with gradient. The learner weights, sums and divides by the global count."""
    metrics: dict[str, Tensor] = field(default_factory=dict)
    """Detached tensors, [B] (reduced like the loss) or scalar; they stay on the device until the log step."""
    priorities: Tensor | None = None
    """New replay priorities [B], non-negative, detached; only for sources that ask for them."""


@dataclass(frozen=True)
class Phase:
    """One optimiser and the loss that it descends."""

    name: str
    loss: Callable[[Batch], Loss]
    parameters: tuple[nn.Parameter, ...]
    optimizer: Mapping[str, Any] = field(default_factory=dict)
    """Settings that override `learner.optimizer` for this phase, for instance {"learning_rate": 1e-4}."""
    repeat: int = 1
    """Steps of this phase in one update, each on a fresh batch (n_critic of WGAN)."""
    every: int = 1
    """Run only in every n-th update (the delayed actor of TD3)."""
    compilable: bool = True
    """False forbids torch.compile and autocast: needed where the loss itself differentiates (gradient penalty) or
    branches on anything but its batch and the module's tensors, such as `progress`."""


@dataclass
class Progress:
    """How far the run is. The engine refreshes it before every rollout and every update; schedules read it."""

    updates: int = 0
    env_steps: int = 0
    epochs: int = 0
    fraction: float = 0.0
    """Share of the stopping budget that is spent, 0 to 1."""


class Action(NamedTuple):
    """What `Algorithm.act` returns for N environments."""

    action: Tensor
    """[N] integers for discrete spaces, [N, ...] reals in the environment's own range otherwise."""
    state: Any = None
    """Recurrent state after the step, passed to the next call; None without memory."""
    extras: Mapping[str, Tensor] = {}
    """Further tensors [N, ...] to keep in the trajectory, for instance the log-probability of the action."""


@dataclass(frozen=True)
class Figure:
    """Something to look at in the tracker; the engine draws it, outside the training process."""

    kind: Literal["images", "matrix", "points"]
    """images: data [M, C, H, W] in 0..1; matrix: data [R, C]; points: data [M, 2]."""
    data: Tensor
    labels: tuple[str, ...] = ()
    """Names of the rows and columns of a matrix."""
    columns: int = 8
    """Images in one row of the grid."""
    reference: Tensor | None = None
    """Points [M', 2] of the true distribution, drawn behind."""


def _same(tensor: Tensor) -> Tensor:
    return tensor


class Algorithm(nn.Module):
    """Base class of everything that trains. Parameters and buffers of the module are its whole state.

    Subclasses set `Config` and `sources`, build their networks in `__init__` after `super().__init__(config, spec)`
    with torch's global generator (which the engine has seeded), and implement `phases`; agents implement `act`.
    """

    Config: ClassVar[type[AlgorithmConfig]] = AlgorithmConfig
    sources: ClassVar[frozenset[str]] = frozenset()
    """Kinds of source that this algorithm can learn from."""
    population_fields: ClassVar[frozenset[str] | None] = None
    """Numbers of `Config` in which runs that train together, as one vectorised model, may differ; None: they cannot.

    Where they differ, the loss reads them from `self.config` as tensors [] of its own run, under `torch.vmap`: it may
    calculate with them, but not branch on them or pass them on as Python numbers. Nothing else may depend on them, and
    the loss takes its parameters from the modules each time. Such an algorithm has one phase, with all parameters, no
    buffers, no randomness in `prepare`, which works row by row, and in the loss."""
    population_requires: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """Values that a field of `Config` must have for that: with others the loss is random or cannot be vectorised."""

    def __init__(self, config: Any, spec: Spec) -> None:
        """Keep `config` (an instance of `Config`) and `spec`; raise UserError when they do not fit together."""
        super().__init__()
        self.config = config
        self.spec = spec
        self.progress = Progress()
        self.sum_over_learners: Callable[[Tensor], Tensor] = _same
        """Returns the sum of a tensor over all learners of the run, for statistics of a whole rollout in `prepare`.
        All learners must call it alike, so not with an asynchronous source, where each prepares when it has to."""
        self.environments: Sequence[int] = range(1)
        """Which of the run's environments the N of `act` are, for exploration that differs between them."""
        self.num_environments = 1
        """Environments of the whole run, over all rollout workers."""

    def phases(self) -> list[Phase]:
        """Return the phases of one update in order. Called once, after construction."""
        raise NotImplementedError(f"{type(self).__name__} must implement phases()")

    def prepare(self, trajectory: Trajectory) -> Batch:
        """Turn what the source collected into training rows; once, over everything, before it is cut into batches.

        on_policy: a Trajectory [T, N, ...] of all workers -> rows [T * N, ...] (advantages, returns).
        asynchronous: a Trajectory [T, N, ...] of one worker, whose policy is older than the weights are when its rows
        are learnt from -> rows [N, ...], each one environment's trajectory; what depends on the weights belongs to
        the loss.
        replay: sampled segments {observation [B, ...], action [B, ...], reward [B, n] (0 after the segment's end),
        length [B] (steps in the segment, 1..n), terminated [B] (bool), next_observation [B, ...]; weight, if
        prioritised} -> rows [B, ...].
        dataset: a Batch of the data set's fields -> rows.
        Runs without gradient. The default returns its argument.
        """
        return trajectory

    def act(self, observation: Tensor, state: Any, explore: torch.Generator | None) -> Action:
        """Choose actions for observations [N, ...]; sample with the generator, or act greedily when it is None."""
        raise NotImplementedError(f"{type(self).__name__} does not act in environments")

    def initial_state(self, num_envs: int) -> Any:
        """Return the recurrent state before the first step of `num_envs` environments."""
        return None

    def after_update(self, update: int) -> None:
        """Run after update number `update` (counted from 1), without gradient: target networks and their kind."""

    def after_publish(self) -> None:
        """Run in every rollout worker when new weights arrive, before the next `act`: refresh acting caches."""

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """Return held-out metrics per example [B] (or scalar) for a prepared batch, without gradient."""
        raise NotImplementedError(f"{type(self).__name__} does not evaluate on data")

    def figures(self, batch: Batch) -> dict[str, Figure]:
        """Return things to look at for a held-out batch: samples, reconstructions. Called at evaluations."""
        return {}

    def summarize(self, outputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Figure]]:
        """Reduce what `evaluate` returned over the whole split under keys that start with an underscore.

        `outputs` holds those tensors, concatenated over the split. Returns scalar metrics and figures (macro-F1,
        confusion matrix).
        """
        return {}, {}

    def sample(self, count: int, generator: torch.Generator) -> Figure:
        """Draw `count` samples from a generative model."""
        raise UserError(f"{type(self).__name__} is not a generative model; sample runs of a VAE or a GAN")

    def inference_module(self) -> nn.Module | None:
        """Return the module to deploy, which maps a batch of inputs [B, ...] to outputs; None when there is none."""
        return None

    def inference_input(self) -> str:
        """Return the field of `spec` that `inference_module` takes."""
        return "observation"


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
