"""One member of a population: a learner's role whose gradient somebody else computes, for all members at once.

A member has its own source, schedule, optimiser state, metrics, evaluations and checkpoints, which fit a run alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from rayloom.checkpoint.random_state import capture_random_state, restore_random_state
from rayloom.config.schema import LearnerConfig, RunConfig
from rayloom.contract import Algorithm, Batch, Group, Phase, Source
from rayloom.datasets.dataset import Dataset
from rayloom.errors import UserError
from rayloom.learner.flat_parameters import Piece
from rayloom.learner.learner import Learner
from rayloom.learner.metric_sums import MetricSums
from rayloom.learner.phase import PhaseLearner
from rayloom.runs.learner_role import Advance, LearnerRole
from rayloom.runs.schedule import Counters, Schedule
from rayloom.seeding import torch_generator
from rayloom.sources.dataset import DatasetSource

_ALONE = "set search.population to 1"


class MemberSource(DatasetSource):
    """A DatasetSource that can also name the rows of its next batch, so that one gather serves all members."""

    def take(self) -> Tensor:
        """Return the rows [B] of the next batch in the training split and move on, as `next` would."""
        if self._order is None:
            self._order = torch.randperm(self._size, generator=torch_generator(self._seed, "dataset", self._epoch))
        rows = self._order[self._position : min(self._position + self._batch_size, self._length)]
        self._position += len(rows)
        if self._position == self._length:
            self._epoch, self._position, self._order = self._epoch + 1, 0, None
        return rows

    def gather(self, rows: Tensor) -> Batch:
        """Return those rows of the training split, unprepared."""
        assert self._fields is not None, "a population's data lie on the device"
        rows = rows.to(self._device)
        return {name: tensor.index_select(0, rows) for name, tensor in self._fields}


class MemberPhase(PhaseLearner):
    """A PhaseLearner whose parameters and gradients can move into rows of shared tensors."""

    def __init__(self, phase: Phase, config: LearnerConfig, group: Group, pieces: Sequence[Piece]) -> None:
        super().__init__(phase, config, group, pieces)
        (self.flat,) = self.flats
        (self.optimizer,) = self.optimizers
        (self.optimizer_config,) = self.optimizer_configs
        self._fused: Callable[[], None] | None = None

    def move(self, values: Tensor, gradient: Tensor) -> None:
        """Keep the parameters in `values` [P] and their gradients in `gradient` [P] from now on."""
        flat = self.flat
        values.copy_(flat.flat.data)
        flat.flat.data, flat.flat.grad, flat.gradient = values, gradient, gradient
        for parameter, (offset, shape) in zip(flat.parameters, flat.windows, strict=True):
            window = slice(offset, offset + shape.numel())
            parameter.data = values[window].view(shape)
            parameter.grad = gradient[window].view(shape)
        self.unbind()

    def unbind(self) -> None:
        """Forget the optimiser's tensors: they have been replaced."""
        self._fused = None

    def step_optimizer(self) -> None:
        """Step with the gradient that is there."""
        if self._fused is not None:
            self._fused()
            return
        self.apply_gradient()
        self._bind()

    def _bind(self) -> None:
        """Call the kernel of Adam directly from now on: torch's `step` takes six times as long around it."""
        name = self.optimizer_config.kind
        if name not in ("adam", "adamw"):
            return
        kernel = torch._fused_adam_ if name == "adam" else torch._fused_adamw_
        group, state = self.optimizer.param_groups[0], self.optimizer.state[self.flat.flat]
        tensors = [self.flat.flat.data], [self.flat.gradient], [state["exp_avg"]], [state["exp_avg_sq"]]
        count: Tensor = state["step"]
        beta1, beta2 = group["betas"]
        eps, decay = group["eps"], group["weight_decay"]

        def step() -> None:
            count.add_(1)
            kernel(*tensors, [], [count], lr=group["lr"], beta1=beta1, beta2=beta2, weight_decay=decay, eps=eps,
                   amsgrad=False, maximize=False)  # fmt: skip

        self._fused = step


class MemberSums(MetricSums):
    """Running means of metrics, of which the population holds the newest until they are asked for."""

    def __init__(self, deliver: Callable[[], None]) -> None:
        """`deliver` calls `add_sum` with what is held back."""
        super().__init__()
        self._deliver = deliver

    def add_sum(self, name: str, total: float, count: int) -> None:
        """Take the sum of `count` values."""
        before, examples = self._sums.get(name, (0.0, 0))
        self._sums[name] = (before + total, examples + count)

    def drain(self, group: Group | None = None, device: torch.device | None = None) -> dict[str, float]:
        """Return the mean of every metric since the last drain, and forget them."""
        self._deliver()
        return super().drain(group, device)

    def state_dict(self) -> dict[str, Any]:
        """Return the sums so far."""
        self._deliver()
        return super().state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the sums."""
        self._deliver()
        super().load_state_dict(state)


class _NoNoise:
    """Refuses to draw: the members of a population share one loss."""

    def __init__(self, name: str) -> None:
        self._name = name

    def _refuse(self, *arguments: object) -> NoReturn:
        raise UserError(f"{self._name} draws noise in prepare or in its loss, which a population cannot; {_ALONE}")

    normal = uniform = bernoulli = permutation = _refuse


class MemberLearner(Learner):
    """A Learner whose gradient and metrics somebody else computes."""

    sums: MemberSums

    def __init__(self, algorithm: Algorithm, config: LearnerConfig, deliver: Callable[[], None]) -> None:
        super().__init__(algorithm, config)
        self.sums = MemberSums(deliver)
        name = type(algorithm).__name__
        algorithm.noise = _NoNoise(name)
        if len(self.declared) != 1 or not isinstance(self.phases[0], MemberPhase):
            raise UserError(f"{name} does not have one phase and no rule, as a population needs; {_ALONE}")

    @staticmethod
    def _make_phase(phase: Phase, config: LearnerConfig, group: Group, pieces: Sequence[Piece]) -> PhaseLearner:
        plain = phase.every == phase.repeat == 1 and phase.when is None and phase.after_step is None
        if not (phase.compilable and plain and len(pieces) == 1):
            raise UserError(
                f"phase {phase.name!r} has every, repeat, when, groups or after_step, or is not compilable, which a "
                f"population cannot train; {_ALONE}"
            )
        return MemberPhase(phase, config, group, pieces)

    @property
    def member(self) -> MemberPhase:
        """Return the one phase."""
        (phase,) = self.phases
        assert isinstance(phase, MemberPhase)
        return phase

    def finish(self) -> None:
        """End an update whose gradient is in its place: step and count."""
        number = self.updates + 1
        scale = self._rate_scale(number)
        phase = self.member
        if scale is not None:
            phase.set_rate_scale(scale)
        phase.step_optimizer()
        metrics = self.algorithm.after_update(number)
        if metrics is not None:
            self._record_after(metrics)
        self.updates = number

    def load_state_dict(self, state: Mapping[str, Any], own: Mapping[str, Any]) -> None:
        """Restore what `state_dict` and `own_state_dict` returned."""
        super().load_state_dict(state, own)
        self.member.unbind()


class MemberRole(LearnerRole):
    """A member's role: whatever a LearnerRole does, but `advance`, which the population does for all."""

    learner: MemberLearner
    source: MemberSource

    def __init__(self, config: RunConfig, dataset: Dataset, deliver: Callable[[], None]) -> None:
        """Build the member for its data; `deliver` brings its `MemberSums` up to date."""
        self._data = dataset
        self._deliver = deliver
        super().__init__(config)
        # The process's generators belong to all members; each keeps what it would have alone, where nothing draws.
        self._random = capture_random_state()

    def _load_dataset(self) -> Dataset:
        return self._data

    def _make_learner(self) -> MemberLearner:
        return MemberLearner(self.algorithm, self.config.learner, self._deliver)

    def _source_class(self) -> type[Source]:
        return MemberSource

    def advance(self, schedule: Schedule, pause_s: float = math.inf, most_updates: float = math.inf) -> Advance:
        """Refuse: a member trains with the others, through `Population.advance`."""
        raise RuntimeError("a member of a population trains through Population.advance")

    def refresh(self, schedule: Schedule) -> Counters:
        """Bring the algorithm's progress up to date and return the counters."""
        counters = self.counters()
        self._set_progress(self.algorithm.progress, counters, schedule)
        return counters

    def barrier_and_state(self) -> dict[str, Any]:
        """Return everything that a resumed run needs, alone or in a population."""
        return {**super().barrier_and_state(), "random": self._random}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `barrier_and_state` returned, or a LearnerRole's."""
        shared = capture_random_state()
        super().load_state(state)
        restore_random_state(shared)
        self._random = state["random"]
