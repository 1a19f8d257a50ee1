"""Noise by address: the numbers of the whole global batch, of which every learner keeps those of its rows.

seed, ("prepare", draw) or (update, phase, repetition), call --> generator --> [total, ...] --cut--> [B, ...]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from rayloom.contract import Noise
from rayloom.errors import UserError
from rayloom.seeding import derive_seed

Call = tuple[str, tuple[int, ...]]
"""Method and arguments of one draw."""


class _Bits:
    """Draws bits by means of uniform numbers."""

    def uniform(self, rows: int, *shape: int) -> Tensor:
        """Return independent numbers, uniform in [0, 1), float32."""
        raise NotImplementedError

    def bernoulli(self, probability: Tensor) -> Tensor:
        """Return 0 or 1 for each element of `probability` [B, ...], in its type."""
        return (self.uniform(*probability.shape) < probability).to(probability.dtype)


class AddressedNoise(_Bits):
    """The engine's noise. Used by one thread."""

    def __init__(self, seed: int, device: torch.device, rank: int = 0, world_size: int = 1) -> None:
        self._seed = seed
        self._device = device
        self._rank, self._world_size = rank, world_size
        self._generator = torch.Generator(device)
        self._address: tuple[str | int, ...] = ()
        self._calls = 0
        self._part: tuple[int, int] | None = None
        self.cut: Callable[[], tuple[int, int] | None] = _by_default
        """Returns which rows of the global batch the batch at hand has: (first, total); None: as many on every
        learner, in the order of their ranks."""

    def begin(self, *address: str | int) -> None:
        """Draw from this place of the seed tree on."""
        self._address = address
        self._calls = 0

    def begin_part(self, start: int, rows: int) -> None:
        """Draw anew from the present place, for a part of this learner's `rows` examples that begins at `start`."""
        self._calls = 0
        self._part = (start, rows)

    def end_parts(self) -> None:
        """Draw for whole batches again."""
        self._part = None

    def normal(self, rows: int, *shape: int) -> Tensor:
        """Return independent standard normal numbers, float32."""
        first, total = self._share(rows)
        generator = self._seeded()
        drawn = torch.randn((total, *shape), generator=generator, device=self._device, dtype=torch.float32)
        return drawn[first : first + rows]

    def uniform(self, rows: int, *shape: int) -> Tensor:
        """Return independent numbers, uniform in [0, 1), float32."""
        first, total = self._share(rows)
        generator = self._seeded()
        drawn = torch.rand((total, *shape), generator=generator, device=self._device, dtype=torch.float32)
        return drawn[first : first + rows]

    def permutation(self, rows: int) -> Tensor:
        """Return an order of this learner's examples, int64 [B]; UserError for a part of them."""
        if self._part is not None:
            raise UserError(
                "learner.accumulate: the loss draws an order of the whole batch (noise.permutation), which its parts "
                "do not have; set learner.accumulate to 1"
            )
        return torch.randperm(rows, generator=self._seeded("rank", self._rank), device=self._device)

    def _seeded(self, *further: str | int) -> torch.Generator:
        call, self._calls = self._calls, self._calls + 1
        return self._generator.manual_seed(derive_seed(self._seed, "noise", *self._address, call, *further))

    def _share(self, rows: int) -> tuple[int, int]:
        given = self.cut()
        start, own = self._part or (0, rows)
        if given is None:
            return self._rank * own + start, self._world_size * own
        first, total = given[0] + start, given[1]
        if first + rows > total:
            raise UserError(
                f"noise: {rows} rows were asked for, which is more than the batch has; draw for the examples of the "
                "batch and put further numbers into the shape, as normal(len(batch), 2)"
            )
        return first, total


def _by_default() -> None:
    return None


class RecordedNoise(_Bits):
    """Hands on what another noise draws, and keeps a list of the calls."""

    def __init__(self, noise: Noise) -> None:
        self._noise = noise
        self.calls: list[Call] = []

    def normal(self, rows: int, *shape: int) -> Tensor:
        """Return independent standard normal numbers, float32."""
        self.calls.append(("normal", (rows, *shape)))
        return self._noise.normal(rows, *shape)

    def uniform(self, rows: int, *shape: int) -> Tensor:
        """Return independent numbers, uniform in [0, 1), float32."""
        self.calls.append(("uniform", (rows, *shape)))
        return self._noise.uniform(rows, *shape)

    def permutation(self, rows: int) -> Tensor:
        """Return an order of this learner's examples, int64 [B]."""
        self.calls.append(("permutation", (rows,)))
        return self._noise.permutation(rows)


class GivenNoise(_Bits):
    """Hands out numbers that were drawn before, in the order of the calls that they were drawn for."""

    def __init__(self, drawn: Sequence[Tensor]) -> None:
        self._drawn: Iterator[Tensor] = iter(drawn)

    def normal(self, rows: int, *shape: int) -> Tensor:
        """Return independent standard normal numbers, float32."""
        return next(self._drawn)

    def uniform(self, rows: int, *shape: int) -> Tensor:
        """Return independent numbers, uniform in [0, 1), float32."""
        return next(self._drawn)

    def permutation(self, rows: int) -> Tensor:
        """Return an order of this learner's examples, int64 [B]."""
        return next(self._drawn)


def draw_calls(noise: Noise, calls: Sequence[Call]) -> list[Tensor]:
    """Draw what these calls ask for, in their order."""
    return [getattr(noise, method)(*arguments) for method, arguments in calls]
