"""The learner: weighs, reduces by global count, differentiates, all-reduces, clips and steps. Once, for everybody.

Each phase's parameters live in one flat tensor, of which the module's parameters are views, and so do their gradients:
clipping, the all-reduce and the optimiser touch one tensor instead of dozens. The update rules of `optimizers.py` are
elementwise, so this changes no number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from rayloom.config import LearnerConfig, OptimizerConfig, validate
from rayloom.contract import Algorithm, Batch, Loss, Phase
from rayloom.group import Group, SingleLearner

_ALIGNMENT = 16  # float32 elements: views start at multiples of a cache line


class FlatParameters:
    """The parameters of one phase as views of one flat tensor, with their gradients alike.

    Behind the gradient, in the same memory, there is room for a number that is to be summed along with it.
    """

    def __init__(self, parameters: tuple[torch.nn.Parameter, ...]) -> None:
        sizes = [math.ceil(p.numel() / _ALIGNMENT) * _ALIGNMENT for p in parameters]
        first = parameters[0]
        self.parameters = parameters
        self.flat = torch.nn.Parameter(torch.zeros(sum(sizes), dtype=first.dtype, device=first.device))
        self.summed = torch.zeros(len(self.flat) + _ALIGNMENT, dtype=first.dtype, device=first.device)
        self.gradient, self.count = self.summed[: len(self.flat)], self.summed[len(self.flat)]
        self.flat.grad = self.gradient
        offset = 0
        for parameter, size in zip(parameters, sizes, strict=True):
            assert parameter.dtype == first.dtype and parameter.device == first.device
            window = slice(offset, offset + parameter.numel())
            view = self.flat.data[window].view(parameter.shape)
            view.copy_(parameter.data)
            parameter.data = view
            parameter.grad = self.gradient[window].view(parameter.shape)
            offset += size


def _undecorated(function: Callable[..., Any]) -> Callable[..., Any]:
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return function


def _spare_dynamo() -> None:
    """Keep torch's optimisers from importing torch._dynamo, which takes a second.

    Some of their methods import it when they are first called, to hide from the compiler. Nothing here compiles an
    optimiser, so they may be called as they are.
    """
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        method = _undecorated(getattr(torch.optim.Optimizer, name))
        if not hasattr(method, "__dynamo_disable"):
            method.__dynamo_disable = method  # type: ignore[attr-defined]


def make_optimizer(config: OptimizerConfig, parameter: torch.nn.Parameter) -> torch.optim.Optimizer:
    """Return torch's optimiser for one flat parameter."""
    _spare_dynamo()
    rate, decay = config.learning_rate, config.weight_decay
    match config.name:
        case "adam":
            return torch.optim.Adam(
                [parameter], lr=rate, betas=config.betas, eps=config.eps, weight_decay=decay, fused=True
            )
        case "adamw":
            return torch.optim.AdamW(
                [parameter], lr=rate, betas=config.betas, eps=config.eps, weight_decay=decay, fused=True
            )
        case "sgd":
            momentum, nesterov = config.momentum, config.nesterov
            return torch.optim.SGD(
                [parameter], lr=rate, momentum=momentum, nesterov=nesterov, weight_decay=decay, fused=True
            )
        case "rmsprop":
            return torch.optim.RMSprop(
                [parameter], lr=rate, alpha=config.alpha, eps=config.eps, momentum=config.momentum, weight_decay=decay
            )
        case "adagrad":
            return torch.optim.Adagrad([parameter], lr=rate, eps=config.eps, weight_decay=decay, fused=True)
        case "adadelta":
            return torch.optim.Adadelta([parameter], lr=rate, rho=config.rho, eps=config.eps, weight_decay=decay)


class PhaseLearner:
    """One phase with its flat parameters and optimiser."""

    def __init__(self, phase: Phase, config: LearnerConfig, group: Group) -> None:
        self.phase = phase
        self.group = group
        self.config = config
        self.flat = FlatParameters(phase.parameters)
        merged = {**asdict(config.optimizer), **phase.optimizer}
        self.optimizer_config = validate(OptimizerConfig, merged, f"phase {phase.name}: optimizer")
        self.optimizer = make_optimizer(self.optimizer_config, self.flat.flat)
        self._plain_step = _undecorated(type(self.optimizer).step)
        self._rate = self.optimizer_config.learning_rate
        device = self.flat.flat.device.type
        self._autocast = config.precision == "bfloat16" and phase.compilable
        self._device_type = device

    def set_rate_scale(self, scale: float) -> None:
        """Set the learning rate to `scale` times its configured value."""
        self.optimizer.param_groups[0]["lr"] = self._rate * scale

    def step(self, batch: Batch) -> tuple[Loss, Tensor | None]:
        """Descend once; return what the phase proposed and the gradient's norm where it was clipped."""
        self.flat.gradient.zero_()
        loss = self._propose(batch)
        count = loss.per_example.shape[0]
        alone = self.group.world_size == 1
        self.objective(loss, batch, count if alone else 1).backward(inputs=self.flat.parameters)  # type: ignore[no-untyped-call]
        if not alone:
            self.reduce(count)
        norm = self._clip()
        self.apply_gradient()
        return loss, norm

    def apply_gradient(self) -> None:
        """Let the optimiser take one step, without the hooks and the compiler's marks around torch's own `step`."""
        with torch.no_grad():
            self._plain_step(self.optimizer)

    def reduce(self, count: int) -> None:
        """Make the sum over this learner's `count` examples the mean over those of all learners."""
        self.flat.count.fill_(count)
        self.group.all_reduce(self.flat.summed)
        self.flat.gradient.div_(self.flat.count)

    def _propose(self, batch: Batch) -> Loss:
        if not self._autocast:
            return self.phase.loss(batch)
        with torch.autocast(self._device_type, dtype=torch.bfloat16):
            return self.phase.loss(batch)

    @staticmethod
    def objective(loss: Loss, batch: Batch, global_count: int) -> Tensor:
        """Reduce per-example losses [B] to this shard's share of the scalar objective.

        The shares of all shards add up to sum(weight * loss) / global_count, whatever the cut.
        """
        assert loss.per_example.ndim == 1, f"the loss must be per example [B], not {tuple(loss.per_example.shape)}"
        weight = batch.get("weight")
        weighted = loss.per_example if weight is None else loss.per_example * weight
        return weighted.sum() / global_count

    def _clip(self) -> Tensor | None:
        """Scale the gradient to at most `max_grad_norm` (Pascanu et al. 2013), without a host synchronisation."""
        if self.config.max_grad_norm is None:
            return None
        norm: Tensor = torch.linalg.vector_norm(self.flat.gradient)
        self.flat.gradient.mul_((self.config.max_grad_norm / (norm + 1e-6)).clamp_(max=1.0))
        return norm


class MetricSums:
    """Running means of metrics that stay on the device until `drain`."""

    _FOLD = 256

    def __init__(self) -> None:
        self._pending: dict[str, list[Tensor]] = {}
        self._sums: dict[str, tuple[float, int]] = {}

    def add(self, name: str, value: Tensor) -> None:
        """Take a detached tensor: [B] counts B examples, a scalar counts one."""
        values = self._pending.setdefault(name, [])
        values.append(value)
        if len(values) >= self._FOLD:
            self._fold(name)

    def _fold(self, name: str) -> None:
        values = torch.cat([value.reshape(-1).float() for value in self._pending[name]])
        total, count = self._sums.get(name, (0.0, 0))
        self._sums[name] = (total + float(values.sum(dtype=torch.float64)), count + values.numel())
        self._pending[name] = []

    def drain(self) -> dict[str, float]:
        """Return the mean of every metric since the last drain, and forget them."""
        self._fold_all()
        means = {name: total / count for name, (total, count) in self._sums.items() if count}
        self._sums = {}
        return means

    def _fold_all(self) -> None:
        for name, values in self._pending.items():
            if values:
                self._fold(name)

    def state_dict(self) -> dict[str, Any]:
        """Return the sums so far."""
        self._fold_all()
        return {name: [total, count] for name, (total, count) in self._sums.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the sums."""
        self._pending = {}
        self._sums = {name: (float(total), int(count)) for name, (total, count) in state.items()}


class Learner:
    """Runs the phases of one algorithm. Owned by one thread."""

    def __init__(self, algorithm: Algorithm, config: LearnerConfig, group: Group | None = None) -> None:
        self.algorithm = algorithm
        self.config = config
        self.updates = 0
        self.sums = MetricSums()
        phases = algorithm.phases()
        assert phases, "an algorithm needs at least one phase"
        seen: set[int] = set()
        for phase in phases:
            ids = {id(parameter) for parameter in phase.parameters}
            assert not ids & seen, f"phase {phase.name} shares parameters with an earlier phase"
            seen |= ids
        self.phases = [self._make_phase(phase, config, group or SingleLearner()) for phase in phases]
        self._prefixes = ["" if len(phases) == 1 else f"{phase.name}_" for phase in phases]

    @staticmethod
    def _make_phase(phase: Phase, config: LearnerConfig, group: Group) -> PhaseLearner:
        if config.compile and phase.compilable:
            from rayloom.compiled import CompiledPhaseLearner

            return CompiledPhaseLearner(phase, config, group)
        return PhaseLearner(phase, config, group)

    def update(self, draw: Callable[[], Batch], feedback: Callable[[Loss], None]) -> None:
        """Run one update: every due phase, `repeat` times, each time on a fresh batch from `draw`."""
        algorithm = self.algorithm
        number = self.updates + 1
        scale = self._rate_scale(number)
        batch: Batch | None = None
        for index, learner in enumerate(self.phases):
            phase = learner.phase
            if number % phase.every:
                continue
            if scale is not None:
                learner.set_rate_scale(scale)
            for repetition in range(phase.repeat):
                if batch is None or repetition or phase.repeat > 1:
                    batch = draw()
                loss, norm = learner.step(batch)
                feedback(loss)
                self._record(index, loss, norm)
        with torch.no_grad():
            algorithm.after_update(number)
        self.updates = number

    def _record(self, index: int, loss: Loss, norm: Tensor | None) -> None:
        prefix = self._prefixes[index]
        per_example = loss.per_example.detach()
        self.sums.add(f"{prefix}loss", per_example)
        if prefix and index == 0:
            self.sums.add("loss", per_example)
        for name, value in loss.metrics.items():
            self.sums.add(f"{prefix}{name}", value)
        if norm is not None:
            self.sums.add(f"{prefix}gradient_norm", norm)

    def _rate_scale(self, number: int) -> float | None:
        """Return the schedule's factor for this update; None when the rate never changes."""
        schedule = self.config.schedule
        if schedule.kind == "constant" and not schedule.warmup:
            return None
        fraction = min(1.0, self.algorithm.progress.fraction)
        scale = 1.0
        if schedule.kind == "linear":
            scale = 1.0 - fraction * (1.0 - schedule.final)
        elif schedule.kind == "cosine":
            scale = schedule.final + (1.0 - schedule.final) * 0.5 * (1.0 + math.cos(math.pi * fraction))
        if schedule.warmup:
            scale *= min(1.0, number / schedule.warmup)
        return scale

    def trained(self) -> dict[str, Tensor]:
        """Return the trained parameters by name."""
        ids = {id(parameter) for learner in self.phases for parameter in learner.flat.parameters}
        return {name: p.detach() for name, p in self.algorithm.named_parameters() if id(p) in ids}

    def state_dict(self) -> dict[str, Any]:
        """Return module, optimisers, counters and unreported metrics."""
        return {
            "algorithm": dict(self.algorithm.state_dict()),
            "optimizers": [learner.optimizer.state_dict() for learner in self.phases],
            "updates": self.updates,
            "sums": self.sums.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.algorithm.load_state_dict(state["algorithm"])
        for learner, saved in zip(self.phases, state["optimizers"], strict=True):
            learner.optimizer.load_state_dict(saved)
        self.updates = int(state["updates"])
        self.sums.load_state_dict(state["sums"])
