"""Gradient accumulation: one step of the optimiser from the gradients of several parts of its batch.

    batch [B, ...] --cut--> parts [b, ...] -> loss -> gradient, added up --> clip, step

Only one part's activations are in memory at a time. Everything else sees one step: the source is asked for one batch,
counters and schedules count one update, and a checkpoint never falls between two parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from rayloom.contract import Algorithm, Batch, Loss
from rayloom.errors import UserError
from rayloom.learner.noise import AddressedNoise


class Accumulation:
    """Cuts the batches of one learner into parts, and refuses losses for which they are not the whole."""

    def __init__(self, algorithm: Algorithm, noise: AddressedNoise, count: int) -> None:
        """Cut into `count` parts; sums over all learners that a loss asks for are refused from here on."""
        self._algorithm, self._noise, self._count = algorithm, noise, count
        self._over_learners = algorithm.sum_over_learners
        self._in_part = False
        self._checked: set[str] = set()
        algorithm.sum_over_learners = self._sum_over_learners

    def _sum_over_learners(self, tensor: Tensor) -> Tensor:
        if self._in_part:
            raise self._refused("depends on the whole batch at once (it calls sum_over_learners, as batch norm does)")
        return self._over_learners(tensor)

    def parts(self, batch: Batch, phase: str) -> Iterator[Batch]:
        """Yield parts [b, ...] of a batch [B, ...] in order, of which no two differ by more than one row.

        There are fewer where the batch has fewer rows: none is empty, unless the batch is. The noise that is drawn for
        a part is that of its rows in the whole batch. UserError for a batch whose fields are not rows of examples, and
        for a loss that changes buffers: what a later part meets would depend on the earlier ones.
        """
        rows = len(next(iter(batch.values())))
        for name, value in batch.items():
            if len(value) != rows:
                raise self._refused(f"has a batch whose field {name!r} has {len(value)} rows for {rows} examples")
        count = max(1, min(self._count, rows))
        buffers = None if phase in self._checked else self._versions()
        self._in_part = True
        try:
            for number in range(count):
                start, end = rows * number // count, rows * (number + 1) // count
                self._noise.begin_part(start, rows)
                yield {name: value[start:end] for name, value in batch.items()}
                if buffers is not None and buffers != self._versions():
                    raise self._refused("changes buffers in its loss (batch norm and a carried memory do)")
        finally:
            self._in_part = False
            self._noise.end_parts()
        self._checked.add(phase)

    def _versions(self) -> list[int]:
        return [buffer._version for buffer in self._algorithm.buffers()]

    def _refused(self, reason: str) -> UserError:
        return UserError(
            f"learner.accumulate: {type(self._algorithm).__name__} {reason}, so that parts of a batch are not the "
            "whole; set learner.accumulate to 1"
        )


def couples_by_torch(algorithm: nn.Module) -> bool:
    """Return whether a module has one of torch's own layers that normalise over the examples of a batch."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in algorithm.modules())


def joined(losses: Sequence[Loss]) -> Loss:
    """Return what the losses of the parts of a batch are for the whole, without gradient.

    Columns [b] become one [B]; a metric that is one number for a part counts once, with the mean over the parts.
    """
    first, rows = losses[0], sum(len(loss.per_example) for loss in losses)
    if len(losses) == 1:
        return Loss(first.per_example.detach(), first.metrics, first.priorities, first.count)

    def column(values: Sequence[Tensor | None]) -> Tensor | None:
        given = [value for value in values if value is not None]
        return torch.cat(given) if given else None

    def metric(name: str) -> Tensor:
        values = [loss.metrics[name] for loss in losses]
        if values[0].ndim:
            return torch.cat(values)
        shares = [len(loss.per_example) / rows for loss in losses]
        return torch.stack([value * share for value, share in zip(values, shares, strict=True)]).sum()

    per_example = torch.cat([loss.per_example.detach() for loss in losses])
    metrics = {name: metric(name) for name in first.metrics}
    return Loss(per_example, metrics, column([x.priorities for x in losses]), column([x.count for x in losses]))
