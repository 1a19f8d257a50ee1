"""The gradient of one phase as a single compiled function over flat tensors.

Small networks on a CPU spend their time between operators, not in them: forward, backward and clipping in one graph
halve the step. The graph is traced once for each shape of batch, with everything that changes during a run (the
parameters, those of other networks, the batch) as its inputs. The numbers equal the eager learner's up to rounding. A
run compiles or does not from start to end, so resuming stays exact.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch._inductor
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from rayloom.config.schema import LearnerConfig
from rayloom.contract import Batch, Loss, Phase
from rayloom.errors import UserError
from rayloom.learner.group import Group, SingleLearner
from rayloom.learner.phase import PhaseLearner

_PRIORITIES = "_priorities"
_Key = tuple[tuple[str, torch.Size, torch.dtype], ...]


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
            raise UserError(
                "learner.compile: torch.compile needs a C++ compiler (g++) on this machine; set it to false"
            )
        self._module = _PhaseModule(phase)
        names = {id(parameter): name for name, parameter in self._module.named_parameters()}
        self._windows: list[tuple[str, int, torch.Size]] = []
        for parameter in phase.parameters:
            offset = (parameter.data_ptr() - self.flat.flat.data_ptr()) // parameter.element_size()
            self._windows.append((names.pop(id(parameter)), offset, parameter.shape))
        others: dict[str, Tensor] = {
            name: p for name, p in self._module.named_parameters() if name in set(names.values())
        }
        others.update(self._module.named_buffers())
        # Aliases of memory that is only ever changed in place.
        self._other_names = list(others)
        self._inputs = [self.flat.flat.detach(), *(tensor.detach() for tensor in others.values())]
        self._graphs: dict[_Key, tuple[Callable[..., Sequence[Tensor]], list[str]]] = {}

    def step(self, batch: Batch) -> tuple[Loss, Tensor | None]:
        """Descend once, as PhaseLearner.step does."""
        key = tuple((name, value.shape, value.dtype) for name, value in batch.items())
        graph, metric_names = self._graphs.get(key) or self._trace(key, batch)
        gradient, norm, per_example, *values = graph(*self._inputs, *batch.values())
        self.flat.gradient.copy_(gradient)
        clipped: Tensor | None = norm if self.config.max_grad_norm is not None else None
        if self.group.world_size > 1:
            self.reduce(len(per_example))
            clipped = self._clip()
        self.apply_gradient()
        metrics = dict(zip(metric_names, values, strict=True))
        priorities = metrics.pop(_PRIORITIES, None)
        return Loss(per_example, metrics, priorities), clipped

    def _trace(self, key: _Key, batch: Batch) -> tuple[Callable[..., Sequence[Tensor]], list[str]]:
        names: list[str] = []

        def flat_function(*tensors: Tensor) -> list[Tensor]:
            count = len(self._inputs)
            fields = dict(zip(batch, tensors[count:], strict=True))
            gradient, norm, per_example, metrics = self._gradient(tensors[0], tensors[1:count], fields)
            names[:] = list(metrics)
            return [gradient, norm, per_example, *metrics.values()]

        inputs: list[Any] = [*self._inputs, *batch.values()]
        graph = make_fx(flat_function)(*inputs)
        compiled: Any = torch._inductor.compile(graph, inputs)
        self._graphs[key] = (compiled, names)
        return self._graphs[key]

    def _gradient(
        self, flat: Tensor, others: Sequence[Tensor], batch: Batch
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Return the (clipped, with one learner) gradient, its norm, the per-example losses and the metrics."""
        scale = 1.0 / len(next(iter(batch.values()))) if self.group.world_size == 1 else 1.0

        def objective(values: Tensor) -> tuple[Tensor, Any]:
            named = {n: values[start : start + shape.numel()].view(shape) for n, start, shape in self._windows}
            named.update(zip(self._other_names, others, strict=True))
            with torch.autocast(self._device_type, dtype=torch.bfloat16, enabled=self._autocast):
                per_example, metrics = torch.func.functional_call(self._module, named, (batch,))
            weight = batch.get("weight")
            weighted = per_example if weight is None else per_example * weight
            return weighted.sum() * scale, (per_example.detach(), metrics)

        gradient, (_, (per_example, metrics)) = torch.func.grad_and_value(objective, has_aux=True)(flat)
        norm = torch.linalg.vector_norm(gradient)
        limit = self.config.max_grad_norm
        if limit is not None and self.group.world_size == 1:
            gradient = gradient * (limit / (norm + 1e-6)).clamp(max=1.0)
        return gradient, norm, per_example, metrics
