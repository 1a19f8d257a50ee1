"""Evaluations leave no trace: generators, modes, noise and buffers are afterwards what they were before."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from rayloom.checkpoint.random_state import capture_random_state, restore_random_state
from rayloom.contract import Algorithm, UserError
from rayloom.seeding import seed_process


@contextlib.contextmanager
def isolated(algorithm: Algorithm, seed: int, number: int) -> Iterator[None]:
    """Put the algorithm into evaluation mode without gradients, under generators of this evaluation's own.

    `number` addresses their seeds. UserError when a buffer has changed.
    """
    generators = capture_random_state()
    modes = [(module, module.training) for module in algorithm.modules()]
    buffers = {name: buffer.clone() for name, buffer in algorithm.named_buffers()}
    algorithm.eval()
    try:
        with torch.no_grad():
            seed_process(seed, "evaluate", number)
            yield
    finally:
        restore_random_state(generators)
        for module, training in modes:  # one by one: a part may stay in evaluation mode while the rest trains
            module.training = training
    for name, buffer in algorithm.named_buffers():
        if name in buffers and not torch.equal(buffer, buffers[name]) and not bool(buffers[name].isnan().any()):
            raise UserError(
                f"an evaluation changed the buffer {name} of {type(algorithm).__name__}: keep what it notes in "
                f"variables of its own, since evaluations may not change a run"
            )
