"""Which device a role's algorithm lives on: by what the plan gives the role, never by what happens to be visible."""

from __future__ import annotations

import itertools
import shutil
from typing import Literal

import torch
from torch import nn

from rayloom.config.schema import RunConfig


def has_compiler() -> bool:
    """Tell whether this machine has a C++ compiler, which torch.compile needs on a CPU."""
    return any(shutil.which(name) for name in ("c++", "g++", "clang++"))


def gpus_of(config: RunConfig, role: Literal["learner", "rollout", "evaluator"]) -> float:
    """Return the GPUs that the config gives each actor of a role."""
    if role == "learner":
        return config.learner.gpus
    if role == "evaluator":
        return config.cluster.evaluator_gpus
    workers = config.workers()
    return workers.worker_gpus if workers is not None else 0.0


def choose_device(config: RunConfig, role: Literal["learner", "rollout", "evaluator"] = "learner") -> torch.device:
    """Return the device of a role's process. `learner.device: cpu` keeps every role on the CPU.

    An actor without GPUs sees those of its machine all the same: they belong to others.
    """
    forced = role == "learner" and config.learner.device == "cuda"
    assigned = config.learner.device != "cpu" and gpus_of(config, role) > 0
    return torch.device("cuda" if forced or assigned else "cpu")


def device_of(module: nn.Module) -> torch.device:
    """Return the device of a module's parameters or, without any, of its buffers."""
    tensor = next(itertools.chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device
