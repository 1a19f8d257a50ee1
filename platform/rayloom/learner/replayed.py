"""The gradient of one phase as a recorded CUDA graph, for losses that may not be compiled.

On a GPU a small network spends its time launching kernels, a gradient penalty most of all. The graph is recorded once
for each shape of batch and launches the same kernels, of the loss as it is written and of torch's own derivatives, with
one call. A run replays from its first step on or not at all, so resuming stays exact.

    batch --copy--> static batch --replay--> static gradients, losses, metrics --copy--> flat gradient, Loss
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rayloom.config.schema import LearnerConfig
from rayloom.contract import Algorithm, Batch, Loss, Phase
from rayloom.errors import UserError
from rayloom.learner.checks import check_loss
from rayloom.learner.flat_parameters import Piece
from rayloom.learner.group import Group
from rayloom.learner.noise import Call, RecordedNoise
from rayloom.learner.phase import PhaseLearner

_WARM_UPS = 3
_Key = tuple[tuple[str, torch.Size, torch.dtype], ...]
Record = Callable[[Callable[[], list[Tensor]]], tuple[Callable[[], Any], list[Tensor]]]
"""Runs a function a few times; returns what repeats its kernels, and the tensors into which these write the results."""


def record_on_gpu(function: Callable[[], list[Tensor]]) -> tuple[Callable[[], Any], list[Tensor]]:
    """Return the replay of the kernels that a function launches, and its results; it may not wait for the device."""
    # What libraries set up at their first call must be there: a stream of its own, as torch's documentation asks for.
    stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UPS):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = function()
    return graph.replay, results


class _Recording(NamedTuple):
    """One recorded graph and the memory that it reads and writes."""

    replay: Callable[[], Any]
    batch: Batch
    per_example: Tensor
    """Losses of the newest replay, [B]."""
    metrics: dict[str, Tensor]
    """Metrics of the newest replay."""


class ReplayedPhaseLearner(PhaseLearner):
    """A PhaseLearner whose loss and gradient are replayed; clipping, all-reduce and optimiser are as they were."""

    def __init__(
        self,
        phase: Phase,
        config: LearnerConfig,
        group: Group,
        pieces: Sequence[Piece],
        record: Record = record_on_gpu,
    ) -> None:
        super().__init__(phase, config, group, pieces)
        self._record = record
        self._recordings: dict[_Key, _Recording] = {}

    def step(self, batch: Batch) -> tuple[Loss, Tensor | None]:
        """Descend once, as PhaseLearner.step does."""
        key = tuple((name, value.shape, value.dtype) for name, value in batch.items())
        recording = self._recordings.get(key)
        if recording is None:
            recording = self._recordings[key] = self._recorded(batch)
        names = list(batch)
        torch._foreach_copy_([recording.batch[name] for name in names], [batch[name] for name in names])
        recording.replay()
        # Copies: the next replay writes into the same memory, and metrics are read much later.
        loss = Loss(recording.per_example.clone(), {name: value.clone() for name, value in recording.metrics.items()})
        if self.group.world_size > 1:
            self.reduce(len(loss.per_example))
        norm = self._clip()
        self.apply_gradient()
        return loss, norm

    def _recorded(self, batch: Batch) -> _Recording:
        static = {name: value.clone() for name, value in batch.items()}
        self._check(static)
        names: list[str] = []

        def run() -> list[Tensor]:
            loss = self._propose(static)
            count = len(loss.per_example) if self.group.world_size == 1 else 1
            # Not `backward`: it would add up on the stream of whoever made the parameters' accumulators.
            gradients = torch.autograd.grad(self.objective(loss, static, count), self.parameters, allow_unused=True)
            for flat in self.flats:
                flat.gradient.zero_()
            used = [
                (p.grad, g)
                for p, g in zip(self.parameters, gradients, strict=True)
                if g is not None and p.grad is not None
            ]
            torch._foreach_copy_([into for into, _ in used], [gradient for _, gradient in used])
            names[:] = list(loss.metrics)
            return [loss.per_example.detach(), *loss.metrics.values()]

        replay, (per_example, *values) = self._record(run)
        return _Recording(replay, static, per_example, dict(zip(names, values, strict=True)))

    def _check(self, batch: Batch) -> None:
        """Run the loss once as it is; UserError where a recording would repeat what may change."""
        owner: Any = getattr(self.phase.loss, "__self__", None)
        calls: list[Call] = []
        if isinstance(owner, Algorithm):
            noise, watched = owner.noise, RecordedNoise(owner.noise)
            owner.noise, calls = watched, watched.calls
            try:
                loss = self._propose(batch)
            finally:
                owner.noise = noise
        else:
            loss = self._propose(batch)
        check_loss(self.phase, loss, batch)
        if calls or loss.count is not None or loss.priorities is not None:
            raise UserError(
                f"learner.compile: the loss of phase {self.phase.name!r} draws noise, or returns a count or "
                "priorities, which cannot be recorded; say capturable=False in the phase, or set "
                "learner.compile to false"
            )
