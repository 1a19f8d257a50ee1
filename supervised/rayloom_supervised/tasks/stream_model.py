"""A language model of characters that reads texts from their start to their end, with one memory all the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from rayloom.contract import Batch, Loss, Spec, Trajectory, UserError
from rayloom_supervised.layers.cells import State
from rayloom_supervised.metrics import sequences as metrics
from rayloom_supervised.tasks.language_model import CharacterModel, CharacterModelConfig


@dataclass(frozen=True, kw_only=True)
class StreamModelConfig(CharacterModelConfig):
    """Settings of the language model that carries its memory over."""

    streams: Annotated[int, Ge(1)] = 64
    """Texts that are read side by side, of each of which a memory is kept: at least `learner.batch_size`."""
    windows_before: Annotated[int, Ge(0)] = 1
    """Windows that are read, from an empty memory, before each held-out one is judged."""


class StreamModel(CharacterModel):
    """The memory after a window is the one before the next; gradients end between them (Graves 2013, section 3).

    It needs `source.order: streams`, whose batch t has in row b window t of stream b. The memories of all streams,
    [streams, layers * tensors of the cell, size], are a buffer that is equal on all learners: each adds those of its
    rows, so that any number of learners goes on from any checkpoint. A held-out window is judged after
    `windows_before` others have been read from an empty memory: that many passes more, all windows of a batch at once.
    """

    Config = StreamModelConfig
    carried: Tensor

    def __init__(self, config: StreamModelConfig, spec: Spec) -> None:
        """Build the model and empty memories."""
        super().__init__(config, spec)
        if config.burn_in:
            raise UserError("algorithm.burn_in: a memory that is carried over needs none; leave it out")
        if config.places:
            raise UserError("algorithm.places: streams have no form that repeats in each window; leave it out")
        tensors = config.cell_layers * self.memory.memories
        self.register_buffer("carried", torch.zeros(config.streams, tensors, config.cell_size))
        self._moved: tuple[Tensor, Tensor] | None = None

    def prepare(self, trajectory: Trajectory) -> Batch:
        """Add the memory [B, ...] before each window of streams; it is empty where one begins."""
        stream = trajectory.get("stream")
        if stream is None:
            return trajectory
        if len(stream) and int(stream[-1]) >= len(self.carried):
            raise UserError(
                f"algorithm.streams: {len(self.carried)} are fewer than the streams of a batch; set it to "
                "learner.batch_size"
            )
        before = self.carried[stream].masked_fill(trajectory["first"][:, None, None], 0)
        return {**trajectory, "memory": before}

    def loss(self, batch: Batch) -> Loss:
        """Return the summed cross-entropy [B] of the characters, and how many those are."""
        if "memory" not in batch:
            raise UserError("source.order: a memory is carried over streams only; set it to streams")
        logits, after = self.read(batch["token"], self._cut(batch["memory"]))
        self._moved = batch["stream"], torch.stack([part for state in after for part in state], dim=1).detach()
        losses, right, count = self._judge(logits, batch)
        return Loss(losses, {"bits_per_character": metrics.bits(losses.detach()), "accuracy": right}, count=count)

    def after_update(self, update: int) -> None:
        """Keep the memories to which the batches of all learners have led."""
        assert self._moved is not None
        stream, memory = self._moved
        moved = torch.zeros_like(self.carried).index_copy_(0, stream, memory.to(self.carried.dtype))
        self.carried.copy_(self.sum_over_learners(moved))

    def _cut(self, memory: Tensor) -> list[State]:
        """Return the states of all layers of the memory [B, layers * tensors, size]."""
        parts = memory.unbind(dim=1)
        each = self.memory.memories
        return [tuple(parts[first : first + each]) for first in range(0, len(parts), each)]

    def _held_out_logits(self, token: Tensor) -> Tensor:
        """Return the logits [B, L, V] of windows that follow each other, each read after some of those before it."""
        before: list[State] | None = None
        for _ in range(self.config.windows_before):
            _, ended = self.read(token, before)
            before = [tuple(torch.cat((torch.zeros_like(part[:1]), part[:-1])) for part in state) for state in ended]
        return self.read(token, before)[0]
