"""Pictures of a space of codes, for any decoder from codes [M, L] to images [M, C, H, W]."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rayloom.contract import Figure

Decode = Callable[[Tensor], Tensor]

_GRID, _STEPS, _ROWS = 16, 9, 8
_REACH = 2.5


def manifold(decode: Decode, device: torch.device) -> Figure:
    """Return images over a plane of codes, spread as the prior is: Kingma and Welling (2014), figure 4."""
    places = torch.special.ndtri((torch.arange(_GRID, device=device) + 0.5) / _GRID)
    codes = torch.cartesian_prod(-places, places).flip(1)
    return Figure("images", decode(codes), columns=_GRID, animate=True)


def traversals(decode: Decode, code: Tensor, order: Tensor) -> Figure:
    """Return rows in each of which one coordinate of a code [L] goes from -2.5 to 2.5, in the order of `order`."""
    places = torch.linspace(-_REACH, _REACH, _STEPS, device=code.device)
    shown = order[:_ROWS]
    codes = code.expand(len(shown), _STEPS, -1).clone()
    for row, coordinate in enumerate(shown.tolist()):
        codes[row, :, coordinate] = places
    return Figure("images", decode(codes.flatten(0, 1)), columns=_STEPS)


def interpolations(decode: Decode, codes: Tensor) -> Figure:
    """Return rows in each of which a code goes in a straight line to the next one, of codes [M, L] in pairs."""
    rows = min(_ROWS, len(codes) // 2)
    share = torch.linspace(0, 1, _STEPS, device=codes.device)[:, None]
    first, last = codes[: 2 * rows : 2, None], codes[1 : 2 * rows : 2, None]
    return Figure("images", decode((first + share * (last - first)).flatten(0, 1)), columns=_STEPS)


def plane(means: Tensor, order: Tensor, groups: Tensor | None, labels: tuple[str, ...]) -> Figure:
    """Return the codes' means [M, L] along the first two coordinates of `order`, coloured by class."""
    first, second = order[:2].tolist()
    axes = (f"code {first}", f"code {second}")
    return Figure("points", means[:, [first, second]], groups=groups, labels=labels, axes=axes)
