"""Randomness that belongs to the rows of a batch, so that the shards of a batch meet what the whole batch meets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rayloom.seeding import torch_generator

_NEW = {"aten::randn": "normal", "aten::rand": "uniform"}
_LIKE = {"aten::randn_like": "normal", "aten::rand_like": "uniform"}
_IN_PLACE = {"aten::normal_": "normal", "aten::uniform_": "uniform", "aten::exponential_": "exponential"}


class RowNoise(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside it, call number k of torch's generators takes its rows from table number k.

    A draw of as many rows as the shard has gets the shard's rows of the table, any other draw the table's first rows.
    Dropout is a draw too. Draws with other parameters than the standard ones (`normal_(2, 3)`) are left to torch.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shard(0, 0)

    def shard(self, start: int, rows: int) -> None:
        """Begin with the first call, for the rows from `start` on."""
        self._start, self._rows, self._calls = start, rows, 0

    def _table(self, kind: str, shape: tuple[int, ...]) -> Tensor:
        generator = torch_generator(0, "row noise", self._calls)
        self._calls += 1
        start = self._start if shape and shape[0] == self._rows else 0
        whole = torch.empty((start + shape[0], *shape[1:])) if shape else torch.empty(())
        if kind == "normal":
            # Box and Muller's pairs, and torch's blocks, would depend on how many rows there are: fill row by row.
            for row in whole if shape else (whole,):
                row.copy_(torch.randn(row.shape, generator=generator))
        elif kind == "exponential":
            whole.uniform_(generator=generator).neg_().log1p_().neg_()
        else:
            whole.uniform_(generator=generator)
        return whole[start:] if shape else whole

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Answer draws from the tables, and let everything else pass."""
        kwargs = kwargs or {}
        name = func._schema.name
        if name in _NEW:
            device, dtype = kwargs.get("device"), kwargs.get("dtype")
            return self._table(_NEW[name], tuple(args[0])).to(device=device, dtype=dtype)
        if name in _LIKE:
            return self._table(_LIKE[name], tuple(args[0].shape)).to(args[0])
        if name in _IN_PLACE and len(args) == 1:
            return args[0].copy_(self._table(_IN_PLACE[name], tuple(args[0].shape)))
        if name == "aten::bernoulli" and len(args) == 1:
            return (self._table("uniform", tuple(args[0].shape)).to(args[0]) < args[0]).to(args[0].dtype)
        if name == "aten::bernoulli_":
            probability = args[1] if len(args) > 1 else kwargs.get("p", 0.5)
            return args[0].copy_(self._table("uniform", tuple(args[0].shape)).to(args[0].device) < probability)
        return func(*args, **kwargs)
