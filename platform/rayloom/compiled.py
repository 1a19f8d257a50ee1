"""The optimiser step of one phase as a single compiled function over flat tensors.

Small networks on a CPU spend their time between operators, not in them: forward, backward, clipping and Adam in one
function cut the step to about half. The numbers equal the eager learner's up to rounding. A run compiles or does not
from start to end, so resuming stays exact.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from rayloom.config import LearnerConfig
from rayloom.contract import Batch, Loss, Phase, UserError
from rayloom.learner import Group, PhaseLearner, SingleLearner


_PRIORITIES = "_priorities"


class _PhaseModule(nn.Module):
    """Gives `torch.func.functional_call` a forward to call: the phase's loss, on the algorithm that owns it."""

    def __init__(self, phase: Phase) -> None:
        super().__init__()
        owner = getattr(phase.loss, "__self__", None)
        assert isinstance(owner, nn.Module), "a compiled phase needs a method of its algorithm as loss"
        self.owner = owner
        self._loss = phase.loss

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss = self._loss(batch)
        # functorch's auxiliary outputs are tensors only, so priorities travel among the metrics.
        extra = {} if loss.priorities is None else {_PRIORITIES: loss.priorities}
        return loss.per_example, {**loss.metrics, **extra}


class CompiledPhaseLearner(PhaseLearner):
    """A PhaseLearner whose gradient is one compiled graph; the optimiser is fused on one flat tensor already."""

    def __init__(self, phase: Phase, config: LearnerConfig, group: Group | None = None) -> None:
        super().__init__(phase, config, group or SingleLearner())
        if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
            raise UserError("learner.compile: torch.compile needs a C++ compiler (g++) on this machine; set it to false")
        self._module = _PhaseModule(phase)
        names = {id(parameter): name for name, parameter in self._module.named_parameters()}
        self._windows: list[tuple[str, int, torch.Size]] = []
        for parameter in phase.parameters:
            offset = (parameter.data_ptr() - self.flat.flat.data_ptr()) // parameter.element_size()
            self._windows.append((names[id(parameter)], offset, parameter.shape))
        self._gradient: Callable[[Tensor, Batch, float], Any] = torch.compile(self._objective_gradient, dynamic=False)

    def _objective_gradient(self, flat: Tensor, batch: Batch, scale: float) -> Any:
        def objective(values: Tensor) -> tuple[Tensor, Any]:
            named = {
                name: values[offset : offset + shape.numel()].view(shape) for name, offset, shape in self._windows
            }
            per_example, metrics = torch.func.functional_call(self._module, named, (batch,))
            weight = batch.get("weight")
            weighted = per_example if weight is None else per_example * weight
            return weighted.sum() * scale, (per_example.detach(), metrics)

        gradient, (_, auxiliary) = torch.func.grad_and_value(objective, has_aux=True)(flat)
        limit = self.config.max_grad_norm
        if limit is None or self.group.world_size > 1:
            return gradient, None, auxiliary
        norm = torch.linalg.vector_norm(gradient)
        return gradient * (limit / (norm + 1e-6)).clamp(max=1.0), norm, auxiliary

    def step(self, batch: Batch) -> tuple[Loss, Tensor | None]:
        """Descend once, as PhaseLearner.step does."""
        rows = len(next(iter(batch.values())))
        gradient, norm, (per_example, metrics) = self._gradient(
            self.flat.flat.detach(), batch, 1.0 / (rows * self.group.world_size)
        )
        self.flat.gradient.copy_(gradient)
        if self.group.world_size > 1:
            self.group.all_reduce(self.flat.gradient)
            norm = self._clip()
        self.optimizer.step()
        priorities = metrics.pop(_PRIORITIES, None)
        return Loss(per_example, metrics, priorities), norm
