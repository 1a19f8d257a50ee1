"""Random generators of Python, NumPy and torch as plain data, and back."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def capture_random_state() -> dict[str, Any]:
    """Return the states of the global generators of Python, NumPy, torch on the CPU and on every GPU in use."""
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    own, array = random.getstate(), np.random.get_state(legacy=False)
    return {"python": own, "numpy": array, "torch": torch.get_rng_state(), "cuda": gpus}


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Set the global generators to what `capture_random_state` returned; GPUs that are gone are left out."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    for index, gpu in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(gpu, index)


def generator_state(generator: np.random.Generator) -> dict[str, Any]:
    """Return the state of a NumPy generator as a tree that a checkpoint can hold."""
    return dict(generator.bit_generator.state)


def restore_generator(generator: np.random.Generator, state: Mapping[str, Any]) -> None:
    """Set a NumPy generator of the same kind to what `generator_state` returned."""
    generator.bit_generator.state = dict(state)
