"""The gradient of one phase as a single compiled function over flat tensors.

Small networks on a CPU spend their time between operators, not in them: forward, backward and clipping in one graph
halve the step. The graph is traced once for each shape of batch, with everything that changes during a run (the
parameters, those of other networks, the batch, noise) as its inputs. The numbers equal the eager learner's up to
rounding. A run compiles or does not from start to end, so resuming stays exact.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch._inductor
from torch import Tensor, nn
from torch._inductor.runtime.cache_dir_utils import default_cache_dir as torch_default
from torch.fx.experimental.proxy_tensor import make_fx

from rayloom.config.schema import LearnerConfig
from rayloom.contract import Algorithm, Batch, GlobalNoise, Loss, Phase
from rayloom.devices import has_compiler
from rayloom.errors import UserError
from rayloom.learner.checks import Traceable, check_loss, not_compilable
from rayloom.learner.flat_parameters import Piece
from rayloom.learner.group import Group
from rayloom.learner.noise import Call, GivenNoise, RecordedNoise, draw_calls
from rayloom.learner.phase import PhaseLearner, count_of, norm_of

_CACHE = "TORCHINDUCTOR_CACHE_DIR"
_PRIORITIES, _COUNT = "_priorities", "_count"
_Key = tuple[tuple[str, torch.Size, torch.dtype], ...]


def _keep_code_in_own_folder() -> None:
    """Keep compiled code in the user's cache folder: torch's, below /tmp, has a name that others could take first.

    TORCHINDUCTOR_CACHE_DIR names another one. Where there is no such folder, torch's remains.
    """
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = os.path.join(base, "rayloom", "compiled")
    # Importing Inductor writes its own default there.
    said = os.environ.get(_CACHE, torch_default()) != torch_default()
    if said or not os.path.isabs(folder):
        return
    with contextlib.suppress(OSError):
        os.makedirs(folder, mode=0o700, exist_ok=True)
        if os.access(folder, os.W_OK):
            os.environ[_CACHE] = folder


class _PhaseModule(nn.Module):
    """Gives `torch.func.functional_call` a forward to call: the phase's loss, on the algorithm that owns it."""

    def __init__(self, phase: Phase) -> None:
        super().__init__()
        owner = getattr(phase.loss, "__self__", None)
        if not isinstance(owner, Algorithm):
            raise not_compilable(phase, "is no method of its algorithm")
        self.owner = owner
        self._loss = phase.loss

    def forward(self, batch: Batch) -> Loss:
        return self._loss(batch)


class _Graph(NamedTuple):
    """One compiled graph."""

    run: Callable[..., Sequence[Tensor]]
    names: list[str]
    """Of the metrics among its outputs."""
    calls: list[Call]
    """The noise among its inputs."""


class CompiledPhaseLearner(PhaseLearner):
    """A PhaseLearner whose gradient is one compiled graph; the optimiser is fused on one flat tensor already."""

    def __init__(self, phase: Phase, config: LearnerConfig, group: Group, pieces: Sequence[Piece]) -> None:
        super().__init__(phase, config, group, pieces)
        if not has_compiler():
            raise UserError(
                "learner.compile: torch.compile needs a C++ compiler (g++) on this machine; set it to false"
            )
        _keep_code_in_own_folder()
        self._module = _PhaseModule(phase)
        names = {id(parameter): name for name, parameter in self._module.named_parameters()}
        self._windows: list[tuple[str, int, int, torch.Size]] = []
        for index, flat in enumerate(self.flats):
            for parameter, (offset, shape) in zip(flat.parameters, flat.windows, strict=True):
                self._windows.append((names.pop(id(parameter)), index, offset, shape))
        others: dict[str, Tensor] = {
            name: p for name, p in self._module.named_parameters() if name in set(names.values())
        }
        others.update(self._module.named_buffers())
        # Aliases of memory that is only ever changed in place.
        self._other_names = list(others)
        self._inputs = [*(flat.flat.detach() for flat in self.flats), *(tensor.detach() for tensor in others.values())]
        self._graphs: dict[_Key, _Graph] = {}

    def step(self, batch: Batch) -> tuple[Loss, Tensor | None]:
        """Descend once, as PhaseLearner.step does."""
        if self.accumulation is not None:
            return super().step(batch)
        gradients, norm, loss = self._run(batch)
        for flat, gradient in zip(self.flats, gradients, strict=True):
            flat.gradient.copy_(gradient)
        clipped: Tensor | None = norm if self.config.max_grad_norm is not None else None
        if self.group.world_size > 1:
            self.reduce(count_of(loss))
            clipped = self._clip()
        self.finish(loss)
        return loss, clipped

    def _descend(self, batch: Batch, scaled: bool) -> Loss:
        """Add the gradient of a part, as PhaseLearner does."""
        gradients, _, loss = self._run(batch)
        for flat, gradient in zip(self.flats, gradients, strict=True):
            flat.gradient.add_(gradient)
        return loss

    def _run(self, batch: Batch) -> tuple[Sequence[Tensor], Tensor, Loss]:
        """Return the gradients, their norm and the loss of a batch."""
        key = tuple((name, value.shape, value.dtype) for name, value in batch.items())
        graph = self._graphs.get(key) or self._trace(key, batch)
        drawn = draw_calls(self._module.owner.noise, graph.calls) if graph.calls else []
        outputs = graph.run(*self._inputs, *batch.values(), *drawn)
        pieces = len(self.flats)
        norm, per_example, *values = outputs[pieces:]
        metrics = dict(zip(graph.names, values, strict=True))
        loss = Loss(per_example, metrics, metrics.pop(_PRIORITIES, None), metrics.pop(_COUNT, None))
        return outputs[:pieces], norm, loss

    def _trace(self, key: _Key, batch: Batch) -> _Graph:
        calls, drawn = self._rehearse(batch)
        owner = self._module.owner
        noise = owner.noise
        names: list[str] = []
        pieces, count, fields = len(self.flats), len(self._inputs), len(batch)

        def flat_function(*tensors: Tensor) -> list[Tensor]:
            given = dict(zip(batch, tensors[count : count + fields], strict=True))
            owner.noise = GivenNoise(tensors[count + fields :])
            gradients, norm, per_example, metrics = self._gradient(tensors[:pieces], tensors[pieces:count], given)
            names[:] = list(metrics)
            return [*gradients, norm, per_example, *metrics.values()]

        inputs: list[Any] = [*self._inputs, *batch.values(), *drawn]
        try:
            graph = make_fx(flat_function)(*inputs)
        except RuntimeError as error:
            # The loss has just worked without being traced.
            raise not_compilable(self.phase, f"cannot be traced ({str(error).splitlines()[0]})") from error
        finally:
            owner.noise = noise
        # Unlike `torch._inductor.compile` this finds what an earlier run has compiled: 4 s instead of 10.
        compiled: Any = torch._inductor.standalone_compile(graph, inputs, dynamic_shapes="from_example_inputs")
        self._graphs[key] = _Graph(compiled, names, calls)
        return self._graphs[key]

    def _rehearse(self, batch: Batch) -> tuple[list[Call], list[Tensor]]:
        """Run the loss once as it is, check it, and return what noise it draws, with an example of each."""
        owner, device = self._module.owner, self.flats[0].flat.device
        before = [buffer._version for buffer in owner.buffers()]
        noise, recorded = owner.noise, RecordedNoise(GlobalNoise(device))
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            owner.noise = recorded
            try:
                with Traceable(self.phase):
                    loss = self._propose(batch)
            finally:
                owner.noise = noise
            drawn = draw_calls(GlobalNoise(device), recorded.calls)
        if not self._checked:
            check_loss(self.phase, loss, batch)
            self._checked = True
        if before != [buffer._version for buffer in owner.buffers()]:
            raise not_compilable(self.phase, "changes buffers (batch norm does)")
        return recorded.calls, drawn

    def _gradient(
        self, flats: Sequence[Tensor], others: Sequence[Tensor], batch: Batch
    ) -> tuple[Sequence[Tensor], Tensor, Tensor, dict[str, Tensor]]:
        """Return the (clipped, with one learner) gradient, its norm, the per-example losses and the metrics."""
        alone = self._scaled

        def objective(*values: Tensor) -> tuple[Tensor, Any]:
            named = {
                n: values[index][start : start + shape.numel()].view(shape) for n, index, start, shape in self._windows
            }
            named.update(zip(self._other_names, others, strict=True))
            with torch.autocast(self._device_type, dtype=torch.bfloat16, enabled=self._autocast):
                loss = torch.func.functional_call(self._module, named, (batch,))
            # functorch's auxiliary outputs are tensors only, so priorities and counts travel among the metrics.
            extra = {_PRIORITIES: loss.priorities, _COUNT: loss.count}
            metrics = {**loss.metrics, **{name: value for name, value in extra.items() if value is not None}}
            return self._share(loss, batch, alone), (loss.per_example.detach(), metrics)

        positions = tuple(range(len(flats)))
        gradients, (_, (per_example, metrics)) = torch.func.grad_and_value(objective, positions, has_aux=True)(*flats)
        norm = norm_of(gradients)
        limit = self.config.max_grad_norm
        if limit is not None and alone:
            gradients = [gradient * (limit / (norm + 1e-6)).clamp(max=1.0) for gradient in gradients]
        return gradients, norm, per_example, metrics

    def _share(self, loss: Loss, batch: Batch, alone: bool) -> Tensor:
        if loss.count is None:
            weight = batch.get("weight")
            weighted = loss.per_example if weight is None else loss.per_example * weight
            return weighted.sum() * (1.0 / len(loss.per_example) if alone else 1.0)
        return self.objective(loss, batch, count_of(loss) if alone else 1)
