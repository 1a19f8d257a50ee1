"""Settings of the learner that an algorithm or a machine cannot heed are refused: none is silently something else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch

from rayloom.config.schema import LearnerConfig
from rayloom.contract import Algorithm, Phase, Rule
from rayloom.errors import UserError


def check_settings(algorithm: Algorithm, steps: Sequence[Phase | Rule], config: LearnerConfig) -> None:
    """Refuse (UserError) settings that no step of the algorithm heeds: they would promise what does not happen."""
    phases = [step for step in steps if isinstance(step, Phase)]
    name = type(algorithm).__name__
    if config.precision == "bfloat16" and not any(phase.autocast for phase in phases):
        raise UserError(f"learner.precision: no phase of {name} may run in bfloat16; write float32")
    if config.compile and not any(phase.compilable for phase in phases):
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
