"""The state of an algorithm: what all learners have alike, and the buffers of which each has its part."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rayloom.contract import Algorithm
from rayloom.errors import UserError
from rayloom.learner.checks import differing
from rayloom.learner.group import Group


def shared_state(algorithm: Algorithm) -> dict[str, Tensor]:
    """Return the parameters and buffers that are equal on all learners."""
    return {name: value for name, value in algorithm.state_dict().items() if name not in algorithm.per_learner}


def own_buffers(algorithm: Algorithm) -> dict[str, Tensor]:
    """Return this learner's part of the buffers in `per_learner`."""
    buffers = dict(algorithm.named_buffers()) if algorithm.per_learner else {}
    return {name: buffers[name] for name in sorted(algorithm.per_learner)}


def cut_buffers(algorithm: Algorithm, rank: int, world_size: int) -> None:
    """Leave this learner its rows of the buffers in `per_learner`.

    UserError for names that are no buffers, and for more learners than rows.
    """
    buffers = dict(algorithm.named_buffers())
    for name in sorted(algorithm.per_learner):
        where = f"{type(algorithm).__name__}.per_learner"
        if name not in buffers:
            raise UserError(f"{where} names {name!r}, which is no buffer of the algorithm; register_buffer it")
        rows = len(buffers[name]) if buffers[name].ndim else 0
        if rows < world_size:
            raise UserError(
                f"learner.count: {world_size} learners cannot share the {rows} rows of the buffer {name!r}; lower it"
            )
        if world_size > 1:
            start, end = rows * rank // world_size, rows * (rank + 1) // world_size
            replace_buffer(algorithm, name, buffers[name][start:end].clone())


def replace_buffer(algorithm: nn.Module, name: str, value: Tensor) -> None:
    """Put another tensor into the place of a buffer: its number of rows may change."""
    path, _, last = name.rpartition(".")
    algorithm.get_submodule(path)._buffers[last] = value


def adopt(algorithm: Algorithm, state: Mapping[str, Tensor]) -> None:
    """Load a whole state, of which the buffers in `per_learner` may be another learner's."""
    for name, buffer in own_buffers(algorithm).items():
        if state[name].shape != buffer.shape:
            replace_buffer(algorithm, name, torch.empty_like(state[name], device=buffer.device))
    algorithm.load_state_dict(dict(state))


def _digest(tensor: Tensor) -> int:
    """Return 24 bits that depend on every bit of a tensor: their squares can be added up in 64."""
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    return int.from_bytes(hashlib.sha256(data).digest()[:3], "little")


def check_equal(algorithm: Algorithm, group: Group) -> None:
    """Raise UserError when a buffer differs between learners; all of them must call it."""
    if group.world_size == 1:
        return
    buffers = [name for name, _ in algorithm.named_buffers()]
    shared = shared_state(algorithm)
    names = [name for name in buffers if name in shared]
    if not names:
        return
    digests = [_digest(shared[name]) for name in names]
    sums = group.sum_counts([*digests, *(digest * digest for digest in digests)])
    different = differing(sums[: len(names)], sums[len(names) :], group.world_size, names)
    if different:
        raise UserError(
            f"{type(algorithm).__name__}: the buffer {different[0]!r} differs between the learners after the first "
            "update; change it alike on all of them (sum_over_learners), or name it in per_learner"
        )
