"""Settings of the learner that an algorithm or a machine cannot heed are refused: none is silently something else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch

from rayloom.config.schema import LearnerConfig
from rayloom.contract import Algorithm, Phase, Rule
from rayloom.errors import UserError
from rayloom.learner.accumulation import couples_by_torch


def check_settings(algorithm: Algorithm, steps: Sequence[Phase | Rule], config: LearnerConfig) -> None:
    """Refuse (UserError) settings that no step of the algorithm heeds: they would promise what does not happen."""
    phases = [step for step in steps if isinstance(step, Phase)]
    name = type(algorithm).__name__
    if config.precision == "bfloat16" and not any(phase.autocast for phase in phases):
        raise UserError(f"learner.precision: no phase of {name} may run in bfloat16; write float32")
    if config.accumulate > 1 and not phases:
        raise UserError(f"learner.accumulate: {name} descends no gradient that could be accumulated; write 1")
    share = config.batch_size // config.count
    if config.accumulate > share:
        raise UserError(
            f"learner.accumulate: {config.accumulate} parts are more than the {share} examples that a learner has of "
            f"each batch; write {share} or less, or raise learner.batch_size"
        )
    if config.accumulate > 1 and couples_by_torch(algorithm):
        raise UserError(
            f"learner.accumulate: {name} has torch's batch norm, which depends on the whole batch at once, so that "
            "parts of it are not the whole; set learner.accumulate to 1"
        )
    if config.compile is True and not any(phase.compilable for phase in phases):
        raise UserError(f"learner.compile: no phase of {name} may be compiled; write false")


@contextlib.contextmanager
def in_bfloat16(device_type: str, phase: str) -> Iterator[None]:
    """Run a loss under autocast; UserError where this machine's library has no such operation in bfloat16."""
    try:
        with torch.autocast(device_type, dtype=torch.bfloat16):
            yield
    except RuntimeError as error:
        if "primitive descriptor" not in str(error):
            raise
        reason = str(error).partition(".")[0]
        raise UserError(
            f"learner.precision: phase {phase!r} has an operation that this machine has not in bfloat16 ({reason}); "
            "write float32, or learn on another device"
        ) from error
