"""One phase: propose, weigh, differentiate, all-reduce, clip and step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rayloom.components import Component
from rayloom.config.optimizers import OPTIMIZERS
from rayloom.config.schema import LearnerConfig
from rayloom.config.validation import override
from rayloom.contract import Batch, Loss, Phase
from rayloom.learner.accumulation import Accumulation, joined
from rayloom.learner.checks import check_loss
from rayloom.learner.flat_parameters import Piece
from rayloom.learner.group import Group
from rayloom.learner.heeded import in_bfloat16
from rayloom.learner.optimizers import _undecorated, make_optimizer


class PhaseLearner:
    """One phase with its pieces of flat memory, and an optimiser for each of them."""

    def __init__(self, phase: Phase, config: LearnerConfig, group: Group, pieces: Sequence[Piece]) -> None:
        self.phase = phase
        self.group = group
        self.config = config
        self.flats = [piece.flat for piece in pieces]
        self.parameters = tuple(parameter for flat in self.flats for parameter in flat.parameters)
        self.optimizer_configs = [self._settings(piece) for piece in pieces]
        self.optimizers = [
            make_optimizer(settings, [piece.flat.flat])
            for settings, piece in zip(self.optimizer_configs, pieces, strict=True)
        ]
        self._plain_steps = [(_undecorated(type(optimizer).step), optimizer) for optimizer in self.optimizers]
        self._rates = [optimizer.param_groups[0]["lr"] for optimizer in self.optimizers]
        self._device_type = self.flats[0].flat.device.type
        self._autocast = config.precision == "bfloat16" and phase.autocast
        self._checked = False
        self.accumulation: Accumulation | None = None
        """Cuts each batch into parts; None: it is descended as a whole."""
        self.stopped = False
        """Whether `Phase.stop_above` holds it back until there is a fresh rollout."""

    def _settings(self, piece: Piece) -> Component:
        different = {**self.phase.optimizer, **piece.settings}
        return override(OPTIMIZERS, self.config.optimizer, different, f"phase {self.phase.name}: optimizer")

    @property
    def learning_rate(self) -> float:
        """The present learning rate of its first piece."""
        return float(self.optimizers[0].param_groups[0]["lr"])

    def set_rate_scale(self, scale: float) -> None:
        """Set the learning rates to `scale` times their configured values."""
        for optimizer, rate in zip(self.optimizers, self._rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * scale

    def step(self, batch: Batch) -> tuple[Loss, Tensor | None]:
        """Descend once; return what the phase proposed and the gradient's norm where it was clipped."""
        for flat in self.flats:
            flat.gradient.zero_()
        if self.accumulation is None:
            loss = self._descend(batch, self._scaled)
        else:
            loss = joined([self._descend(part, False) for part in self.accumulation.parts(batch, self.phase.name)])
        if not self._scaled:
            self.reduce(count_of(loss))
        norm = self._clip()
        self.finish(loss)
        return loss, norm

    def finish(self, loss: Loss) -> None:
        """Take the step, unless the loss says that the phase has gone far enough; all learners decide alike."""
        if self.phase.stop_above is not None:
            name, limit = self.phase.stop_above
            self.stopped = self._mean(loss.metrics[name], loss.count) > limit
        if not self.stopped:
            self.apply_gradient()

    def _mean(self, metric: Tensor, count: Tensor | None) -> float:
        """Return the mean of a metric, scalar or [B], over the examples (or what they count) of all learners."""
        number = metric.new_tensor(float(metric.numel())) if count is None or not metric.ndim else count.sum()
        both = torch.stack([metric.detach().sum(dtype=torch.float64), number.double()])
        self.group.all_reduce(both)
        total, elements = both.tolist()
        return total / elements if elements else 0.0

    @property
    def _scaled(self) -> bool:
        """Whether the gradient of a batch is divided by its count at once: there is nothing to add to it."""
        return self.group.world_size == 1 and self.accumulation is None

    def _descend(self, batch: Batch, scaled: bool) -> Loss:
        """Add the gradient of a batch, or of a part of it, to `flats`; divided by its count where it is `scaled`."""
        loss = self._propose(batch)
        if not self._checked:
            check_loss(self.phase, loss, batch)
            self._checked = True
        objective = self.objective(loss, batch, count_of(loss) if scaled else 1)
        objective.backward(inputs=self.parameters)  # type: ignore[no-untyped-call]
        return loss

    def apply_gradient(self) -> None:
        """Let the optimisers take one step, without the hooks and the compiler's marks around torch's own `step`."""
        with torch.no_grad():
            for plain_step, optimizer in self._plain_steps:
                plain_step(optimizer)
            if self.phase.after_step is not None:
                self.phase.after_step()

    def reduce(self, count: int | Tensor) -> None:
        """Make the sum over this learner's examples, which count `count`, the mean over those of all learners."""
        first = self.flats[0]
        first.count.fill_(count)
        for flat in self.flats:
            self.group.all_reduce(flat.summed)
        if isinstance(count, Tensor):
            first.count.clamp_(min=torch.finfo(first.count.dtype).tiny)
        for flat in self.flats:
            flat.gradient.div_(first.count)

    def _propose(self, batch: Batch) -> Loss:
        if not self._autocast:
            return self.phase.loss(batch)
        with in_bfloat16(self._device_type, self.phase.name):
            return self.phase.loss(batch)

    @staticmethod
    def objective(loss: Loss, batch: Batch, global_count: int | Tensor) -> Tensor:
        """Reduce per-example losses [B] to this shard's share of the scalar objective.

        The shares of all shards add up to sum(weight * loss) / global_count, whatever the cut; to 0 where nothing
        counts.
        """
        weight = batch.get("weight")
        weighted = loss.per_example if weight is None else loss.per_example * weight
        if isinstance(global_count, Tensor):
            global_count = global_count.clamp(min=torch.finfo(global_count.dtype).tiny)
        return weighted.sum() / global_count

    def _clip(self) -> Tensor | None:
        """Scale the gradient to at most `max_grad_norm` (Pascanu et al. 2013), without a host synchronisation."""
        if self.config.max_grad_norm is None:
            return None
        norm = norm_of([flat.gradient for flat in self.flats])
        scale = (self.config.max_grad_norm / (norm + 1e-6)).clamp_(max=1.0)
        for flat in self.flats:
            flat.gradient.mul_(scale)
        return norm


def count_of(loss: Loss) -> int | Tensor:
    """Return how many elements the examples of a loss stand for: their number, or the sum of their counts."""
    per_example = loss.per_example
    if loss.count is None:
        return per_example.shape[0]
    return loss.count.sum(dtype=per_example.dtype)


def norm_of(gradients: Sequence[Tensor]) -> Tensor:
    """Return the L2 norm of a gradient that lies in pieces."""
    if len(gradients) == 1:
        norm: Tensor = torch.linalg.vector_norm(gradients[0])
        return norm
    joint: Tensor = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g).float() for g in gradients]))
    return joint
