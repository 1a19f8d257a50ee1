"""One phase: propose, weigh, differentiate, all-reduce, clip and step."""

from __future__ import annotations

import torch
from torch import Tensor

from rayloom.config.optimizers import OPTIMIZERS
from rayloom.config.schema import LearnerConfig
from rayloom.config.validation import override
from rayloom.contract import Batch, Loss, Phase
from rayloom.learner.flat_parameters import FlatParameters
from rayloom.learner.group import Group
from rayloom.learner.optimizers import _undecorated, make_optimizer


class PhaseLearner:
    """One phase with its flat parameters and optimiser."""

    def __init__(self, phase: Phase, config: LearnerConfig, group: Group) -> None:
        self.phase = phase
        self.group = group
        self.config = config
        self.flat = FlatParameters(phase.parameters)
        where = f"phase {phase.name}: optimizer"
        self.optimizer_config = override(OPTIMIZERS, config.optimizer, phase.optimizer, where)
        self.optimizer = make_optimizer(self.optimizer_config, [self.flat.flat])
        self._plain_step = _undecorated(type(self.optimizer).step)
        self._rate = self.optimizer.param_groups[0]["lr"]
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
