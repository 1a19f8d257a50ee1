"""The base class of everything that trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from rayloom.contract.data import Batch, Metric, Spec, Table, Trajectory
from rayloom.contract.figures import Figure
from rayloom.contract.noise import GlobalNoise, Noise
from rayloom.contract.steps import Phase, Progress, Rule
from rayloom.errors import UserError

Observation = Any
"""A tensor [N, ...], or for nested spaces a dict of tensors [N, ...] by the names of their parts."""


@dataclass(frozen=True, kw_only=True)
class AlgorithmConfig:
    """Base of every algorithm's own settings; subclass it as a frozen dataclass with a docstring under each field."""


class Action(NamedTuple):
    """What `Algorithm.act` returns for N environments."""

    action: Tensor | Mapping[str, Tensor]
    """[N] integers for discrete spaces, [N, ...] for vectors of categories, all counted from 0; [N, ...] reals in the
    environment's own range otherwise. For nested spaces a dict of them by the names of the parts."""
    state: Any = None
    """Recurrent state after the step, passed to the next call; None without memory."""
    extras: Mapping[str, Tensor] = {}
    """Further tensors [N, ...] to keep in the trajectory, for instance the log-probability of the action."""


@dataclass(frozen=True, kw_only=True)
class Input:
    """What an earlier run has learnt, as the run that starts from it sees it."""

    run_id: str
    step: int
    """The update of the weights."""
    weights: Mapping[str, Tensor]
    """The state of its algorithm's module, on the CPU."""


def _same(tensor: Tensor) -> Tensor:
    return tensor


def replace_rows(state: Any, fresh: Any, ended: Tensor) -> Any:
    """Return a nested state with the rows `ended` [N] of each tensor [N, ...] taken from `fresh`."""
    if state is None:
        return None
    if isinstance(state, Tensor):
        shape = (-1,) + (1,) * (state.ndim - 1)
        return torch.where(ended.view(shape).to(state.device), fresh.to(state), state)
    if isinstance(state, Mapping):
        return {name: replace_rows(value, fresh[name], ended) for name, value in state.items()}
    parts = [replace_rows(value, other, ended) for value, other in zip(state, fresh, strict=True)]
    return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)


class Algorithm(nn.Module):
    """Base class of everything that trains. Parameters and buffers of the module are its whole state.

    Subclasses set `Config` and `sources`, build their networks in `__init__` after `super().__init__(config, spec)`
    with torch's global generator (which the engine has seeded), and implement `phases`; agents implement `act`.
    """

    Config: ClassVar[type[AlgorithmConfig]] = AlgorithmConfig
    sources: ClassVar[frozenset[str]] = frozenset()
    """Kinds of source that this algorithm can learn from."""
    metrics: ClassVar[Mapping[str, Metric]] = {}
    """What its losses, rules and evaluations report, by the name that they give it (without train/ or evaluate/, and
    without the name of the phase, which comes first where there are several; * stands for anything): the direction in
    which each improves, its unit and meaning. A metric that stops a run or chooses a checkpoint or a trial must stand
    here, with its direction here or in the config."""
    replay_fields: ClassVar[frozenset[str]] = frozenset()
    """Extras of `act` that replay keeps, for instance the log-probability of the action."""
    per_learner: ClassVar[frozenset[str]] = frozenset()
    """Names of buffers that differ between learners (persistent chains): each learner has its part of dimension 0. With
    another number of learners they are joined and cut anew. All other buffers must be equal everywhere."""
    population_fields: ClassVar[frozenset[str] | None] = None
    """Numbers of `Config` in which runs that train together, as one vectorised model, may differ; None: they cannot.

    Where they differ, the loss reads them from `self.config` as tensors [] of its own run, under `torch.vmap`: it may
    calculate with them, but not branch on them or pass them on as Python numbers. Nothing else may depend on them, and
    the loss takes its parameters from the modules each time. Such an algorithm has one phase, with all parameters, no
    buffers, no randomness in `prepare`, which works row by row, and in the loss."""
    population_requires: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """Values that a field of `Config` must have for that: with others the loss is random or cannot be vectorised. The
    field of a component is "network.dropout", for those kinds that have it, and its kind "network.kind"."""

    @classmethod
    def compiles_from(cls, config: Any) -> int | None:
        """Return from how many updates on `learner.compile: auto` compiles a run with these settings; None: from none.

        A number is a measurement: so many faster steps save the 15 s that compiling takes the first time on a machine
        (5 s later). The engine asks a class that says so itself, and not its subclasses, whose losses may be others.
        """
        return None

    def __init__(self, config: Any, spec: Spec) -> None:
        """Keep `config` (an instance of `Config`) and `spec`; raise UserError when they do not fit together."""
        super().__init__()
        self.config = config
        self.spec = spec
        self.progress = Progress()
        self.sum_over_learners: Callable[[Tensor], Tensor] = _same
        """Returns the sum of a tensor over all learners of the run, for statistics of a whole rollout in `prepare`, or
        of the global batch in a loss (batch norm), whose author sums the derivative, too. All learners must call it
        alike, so not with an asynchronous source, where each prepares when it has to. One learner alone gets the very
        tensor back that it gave."""
        self.noise: Noise = GlobalNoise()
        """Random numbers for losses, rules and `prepare`, which do not depend on the number of learners."""
        self.environments: Sequence[int] = range(1)
        """Which of the run's environments the N of `act` are, for exploration that differs between them."""
        self.num_environments = 1
        """Environments of the whole run, over all rollout workers."""

    def initialize(self, data: Table | None) -> None:
        """Take statistics of the training data (means, vocabularies' frequencies, first centres) into buffers.

        Once, before update 1 of a new run, on every learner alike. `data` is the training split; None for sources that
        have none. Runs without gradient.
        """

    def start_from(self, inputs: Mapping[str, Input]) -> None:
        """Take over what earlier runs have learnt (`inputs` of the config); once, when a new run begins."""
        raise UserError(f"{type(self).__name__} does not start from other runs; remove inputs")

    def phases(self) -> Sequence[Phase | Rule]:
        """Return the phases and rules of one update in order. Called once, after construction and `initialize`."""
        raise NotImplementedError(f"{type(self).__name__} must implement phases()")

    def collected(self, trajectory: Trajectory) -> None:
        """See a fresh chunk [T, N, ...] of environment steps, once: running statistics of observations and rewards.

        Called by every source with environments, before `prepare`, without gradient. Several learners each see their
        own environments' steps: with an on-policy source, which calls it once a rollout on all of them, add them up
        with `sum_over_learners`; the others collect at each learner's own pace.
        """

    def prepare(self, trajectory: Trajectory) -> Batch:
        """Turn what the source collected into training rows; once, over everything, before it is cut into batches.

        on_policy: a Trajectory [T, N, ...] of all workers -> rows [T * N, ...] (advantages, returns).
        asynchronous: a Trajectory [T, N, ...] of one worker, whose policy is older than the weights are when its rows
        are learnt from -> rows [N, ...], each one environment's trajectory; what depends on the weights belongs to
        the loss.
        replay: sampled segments {observation [B, ...], action [B, ...], reward [B, n] (0 after the segment's end),
        length [B] (steps in the segment, 1..n), terminated [B] (bool), next_observation [B, ...]; weight, if
        prioritised; replay_fields of the first step} -> rows [B, ...]. With `sequence_length` sequences of L =
        `burn_in` + `sequence_length` steps {observation, action, reward, next_observation, replay_fields [B, L, ...];
        terminated, truncated, first, valid (False: padding and dead steps; everything is 0 there), burn_in [B, L]}.
        They run over the ends of episodes to the newest step; `truncated` also marks where one breaks off.
        dataset: a Batch of the data set's fields -> rows.
        Runs without gradient. The default returns its argument.
        """
        return trajectory

    def act(self, observation: Observation, state: Any, explore: torch.Generator | None) -> Action:
        """Choose actions for observations [N, ...]; sample with the generator, or act greedily when it is None.

        The observation is one tensor, or for nested spaces a dict of tensors by the names of their parts ("position",
        "camera.left"). Tensors lie on the algorithm's device, and the module is in evaluation mode, everywhere: in
        rollout workers, evaluations, central inference and `sample`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not act in environments")

    def initial_state(self, num_envs: int) -> Any:
        """Return the recurrent state before the first step of `num_envs` environments."""
        return None

    def reset_state(self, state: Any, ended: Tensor) -> Any:
        """Return the recurrent state in which the environments of `ended` [N] (bool) begin an episode.

        The default replaces their rows, along the first dimension of every tensor of the (nested) state, by those of
        `initial_state`; override it where N is not the first dimension.
        """
        return replace_rows(state, self.initial_state(len(ended)), ended)

    def after_update(self, update: int) -> Mapping[str, Tensor] | None:
        """Run after update number `update` (counted from 1), without gradient: target networks and their kind.

        May return metrics (scalars, or [B]).
        """

    def after_publish(self) -> None:
        """Run in every rollout worker when new weights arrive, before the next `act`: refresh acting caches."""

    def evaluate(self, batch: Batch) -> Mapping[str, Tensor | tuple[Tensor, Tensor]]:
        """Return held-out metrics per example [B] (or scalar) for a prepared batch, without gradient.

        The engine averages them over the split. A mean over elements and not over examples (the valid tokens of padded
        sequences) is a pair of their sum and count in each example, ([B], [B]): the sums are added up and divided by
        the sum of all counts, as with `Loss.count`. Tensors whose names start with an underscore are for `summarize`.
        """
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

    def predictions(self, batch: Batch) -> dict[str, Tensor]:
        """Return the columns [B] that `rayloom predict` writes for raw inputs [B, ...], which have no labels.

        A column of whole numbers with the name of a field of `spec` is written with that field's labels. The batch is
        that of the data set's `reader`, and was not prepared. In evaluation mode, without gradient.
        """
        raise UserError(f"{type(self).__name__} predicts nothing from files; see rayloom evaluate and rayloom sample")

    def inference_module(self) -> nn.Module | None:
        """Return the module to deploy, which maps a batch of inputs [B, ...] to outputs; None when there is none."""
        return None

    def inference_input(self) -> str:
        """Return the field of `spec` that `inference_module` takes."""
        return "observation"
