"""Parameters as views of flat tensors, so that clipping, the all-reduce and the optimiser touch few tensors.

The memory of all phases is cut into disjoint pieces: parameters that the same phases train, with the same settings, lie
in one. A phase is a list of pieces, in most algorithms of one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from rayloom.contract import Phase

_ALIGNMENT = 16  # float32 elements: views start at multiples of a cache line


class FlatParameters:
    """Some parameters as views of one flat tensor, with their gradients alike.

    Behind the gradient, in the same memory, there is room for a number that is to be summed along with it. Phases that
    share a piece share its gradient, too: each clears it before it differentiates.
    """

    def __init__(self, parameters: tuple[torch.nn.Parameter, ...]) -> None:
        sizes = [math.ceil(p.numel() / _ALIGNMENT) * _ALIGNMENT for p in parameters]
        first = parameters[0]
        self.parameters = parameters
        self.flat = torch.nn.Parameter(torch.zeros(sum(sizes), dtype=first.dtype, device=first.device))
        self.summed = torch.zeros(len(self.flat) + _ALIGNMENT, dtype=first.dtype, device=first.device)
        self.gradient, self.count = self.summed[: len(self.flat)], self.summed[len(self.flat)]
        self.flat.grad = self.gradient
        self.windows: list[tuple[int, torch.Size]] = []
        """Offset and shape of each parameter in the flat tensor."""
        offset = 0
        for parameter, size in zip(parameters, sizes, strict=True):
            window = slice(offset, offset + parameter.numel())
            view = self.flat.data[window].view(parameter.shape)
            view.copy_(parameter.data)
            parameter.data = view
            parameter.grad = self.gradient[window].view(parameter.shape)
            self.windows.append((offset, parameter.shape))
            offset += size


class Piece(NamedTuple):
    """What a phase trains with the same settings."""

    flat: FlatParameters
    settings: Mapping[str, Any]
    """Settings of the optimiser that differ from the phase's."""


def cut_into_pieces(phases: Sequence[Phase]) -> list[list[Piece]]:
    """Move the parameters of all phases into flat memory and return the pieces of each phase."""
    parameters: dict[int, torch.nn.Parameter] = {}
    places: dict[int, list[tuple[int, int]]] = {}
    for number, phase in enumerate(phases):
        group_of = {id(p): group for group, (members, _) in enumerate(phase.groups) for p in members}
        for parameter in phase.parameters:
            parameters[id(parameter)] = parameter
            places.setdefault(id(parameter), []).append((number, group_of.get(id(parameter), -1)))
    alike: dict[Any, list[torch.nn.Parameter]] = {}
    for identity, parameter in parameters.items():
        alike.setdefault((tuple(places[identity]), parameter.dtype, parameter.device), []).append(parameter)
    pieces: list[list[Piece]] = [[] for _ in phases]
    for (users, *_), members in alike.items():
        flat = FlatParameters(tuple(members))
        for number, group in users:
            pieces[number].append(Piece(flat, {} if group < 0 else phases[number].groups[group][1]))
    return pieces
