"""What the scans whose gradient is written out have in common.

Automatic differentiation records a dozen small operations at each time and adds up the gradient of the recurrent
matrices time by time. Written out, the gradient's factors are worked out for many times at once, a handful of
operations remain at each, and a matrix's gradient is one product at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

_BLOCK = 2**15
"""Numbers of a block's state: few enough that a block's factors stay in the cache of a core."""


def time_blocks(times: int, state: Tensor) -> Iterator[slice]:
    """Yield blocks of time, from the last, for a state [B, H]; on an accelerator there is but one."""
    length = max(1, _BLOCK // max(1, state.numel())) if state.device.type == "cpu" else times
    for end in range(times, 0, -max(1, length)):
        yield slice(max(0, end - length), end)


def slope(squashed: Tensor) -> Tensor:
    """Return the derivative of the logistic function, a new tensor, where the function is `squashed`."""
    return torch.rsub(squashed, 1).mul_(squashed)


def by_steps(
    plain: Callable[..., tuple[Tensor, ...]], inputs: Sequence[Tensor], asked: Sequence[bool], grads: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    """Return the gradients of the `asked` ones of `inputs` that can be differentiated again.

    `grads` are those of what `plain(*inputs)` returns; it does the same as the scan, step by step.
    """
    needed = [value for value, one in zip(inputs, asked, strict=True) if one]
    found = iter(torch.autograd.grad(plain(*inputs), needed, grads, create_graph=True, allow_unused=True))
    return tuple(next(found) if one else None for one in asked)
