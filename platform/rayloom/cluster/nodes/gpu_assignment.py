"""What Ray has assigned to an actor, against what its plan promised."""

from __future__ import annotations

import math

import ray
import torch

from rayloom.errors import UserError


def confirm_assignment(name: str, gpus: float, device: torch.device) -> None:
    """Raise when this actor has other GPUs than it should, or cannot use them. `name` says who it is.

    Ray makes the assigned GPUs the only visible ones, so that "cuda" is the first of them.
    """
    assigned = ray.get_gpu_ids()
    if len(assigned) != math.ceil(gpus):
        raise RuntimeError(f"{name} was promised {gpus:g} GPUs and Ray has assigned {assigned or 'none'}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"{name} has GPU {', '.join(map(str, assigned))} of {ray.util.get_node_ip_address()}, which torch cannot "
            f"use there: install torch for CUDA on that node, or set learner.device to cpu"
        )
