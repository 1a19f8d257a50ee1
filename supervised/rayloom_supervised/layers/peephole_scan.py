"""The LSTM with peepholes over a whole sequence, with its gradient written out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rayloom_supervised.layers.written_out import by_steps, slope, time_blocks

Scan = tuple[Tensor, Tensor, Tensor]
"""Outputs [T, B, H], and the output and the memory [B, H] after them."""
Plain = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Scan]


def peephole_scan(
    projected: Tensor,
    recurrent: Tensor,
    peephole: Tensor,
    state: tuple[Tensor, Tensor],
    real: Tensor | None,
    plain: Plain,
) -> Scan:
    """Return what `plain(projected, recurrent, peephole, *state)` returns, faster.

    `projected` [T, B, 4 H] of the gates i, f, o, c~; `recurrent` [4 H, H]; `peephole` [3, H]; `state`: output and
    memory [B, H]; `real` [T, B, 1]: where it is False the state stays. `plain` is differentiated where a gradient is
    itself to have one.
    """
    apply: Callable[..., Scan] = _PeepholeScan.apply
    return apply(projected, recurrent, peephole, *state, real, plain)


class _PeepholeScan(torch.autograd.Function):
    """Equations 187 to 192 over time, and their gradient."""

    @staticmethod
    def forward(
        ctx: Any, projected: Tensor, recurrent: Tensor, peephole: Tensor, hidden: Tensor, memory: Tensor,
        real: Tensor | None, plain: Plain,
    ) -> Scan:  # fmt: skip
        """Keep the gates [T, B, 4, H], and outputs and memories [T + 1, B, H] with those before the first."""
        times, batch, size = len(projected), len(hidden), hidden.shape[1]
        gates = hidden.new_empty(times, batch, 4, size)
        hiddens, memories = hidden.new_empty(times + 1, batch, size), hidden.new_empty(times + 1, batch, size)
        squashed = hidden.new_empty(times, batch, size)
        hiddens[0], memories[0] = hidden, memory
        transposed = recurrent.T.contiguous()  # a product with it takes two thirds of the time
        inward, outward = peephole[:2], peephole[2]
        # All views at once: one by one they would take as long as the arithmetic of a small batch.
        output, kept, spread = hiddens.unbind(), memories.unbind(), memories[:, :, None].unbind()
        steps = (projected, gates.view(times, batch, -1), gates[:, :, :2], *gates.unbind(2), squashed)
        for time, (given, sums, inner, enter, forget, leave, candidate, flat) in enumerate(
            zip(*(part.unbind() for part in steps), strict=True)
        ):
            new = kept[time + 1]
            torch.addmm(given, output[time], transposed, out=sums)
            inner.addcmul_(inward, spread[time]).sigmoid_()
            candidate.tanh_()
            torch.mul(forget, kept[time], out=new).addcmul_(enter, candidate)
            leave.addcmul_(outward, new).sigmoid_()
            torch.mul(leave, torch.tanh(new, out=flat), out=output[time + 1])
            if real is not None:
                output[time + 1].copy_(torch.where(real[time], output[time + 1], output[time]))
                new.copy_(torch.where(real[time], new, kept[time]))
        ctx.save_for_backward(projected, recurrent, peephole, hidden, memory, real, gates, hiddens, memories, squashed)
        ctx.plain = plain
        return hiddens[1:], hiddens[-1].clone(), memories[-1].clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of projected, recurrent, peephole, hidden and memory."""
        projected, recurrent, peephole, hidden, memory, real, gates, hiddens, memories, squashed = ctx.saved_tensors
        if torch.is_grad_enabled():  # of a gradient that is to have a gradient
            inputs = (projected, recurrent, peephole, hidden, memory)
            return (*by_steps(ctx.plain, inputs, ctx.needs_input_grad[:5], grads), None, None)
        times, batch, _, size = gates.shape
        summed = torch.empty_like(gates)
        """The gradient of the gates' sums."""
        to_hidden, to_memory, to_peephole = grads[1].clone(), grads[2].clone(), torch.zeros_like(peephole)
        outputs = grads[0].unbind()
        to_hidden += outputs[-1]
        for block in time_blocks(times, hidden):
            valid = None if real is None else real[block]
            factors, onward, inward = _factors(gates[block], memories[:-1][block], squashed[block], peephole, valid)
            still = None if valid is None else (~valid).to(hidden.dtype)
            found = summed[block]
            rows = (factors, factors[:, :, 2], onward, inward, found, found[:, :, 2], found.view(-1, batch, 4 * size))
            steps = list(zip(*(part.unbind() for part in rows), strict=True))
            for place in range(len(steps) - 1, -1, -1):
                factor, outer, after, into, sums, leave, flat = steps[place]
                to_memory.addcmul_(to_hidden, into)
                torch.mul(factor, to_memory[:, None], out=sums)
                torch.mul(outer, to_hidden, out=leave)
                to_memory.mul_(after)
                time = block.start + place
                earlier = torch.addmm(outputs[time - 1], flat, recurrent) if time else flat @ recurrent
                to_hidden = earlier if still is None else earlier.addcmul_(to_hidden, still[place])
            # A memory that stood still over padding is not what its gate made, but there the gradient is 0.
            seen = torch.stack((memories[:-1][block], memories[:-1][block], memories[1:][block]), dim=2)
            to_peephole += seen.mul_(found[:, :, :3]).sum((0, 1))
        rows_of_time = summed.view(times * batch, 4 * size)
        to_recurrent = rows_of_time.T @ hiddens[:-1].reshape(times * batch, size)
        return summed.view_as(projected), to_recurrent, to_peephole, to_hidden, to_memory, None, None


def _factors(
    gates: Tensor, before: Tensor, squashed: Tensor, peephole: Tensor, real: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return how the sums of the gates [T, B, 4, H] answer to the memory's gradient, and o's to the output's.

    Further how the memory's gradient goes on to the memory before, and the output's to the memory: [T, B, H] each.
    """
    enter, forget, leave, candidate = gates.unbind(2)
    factors = torch.empty_like(gates)
    slopes = slope(gates[:, :, :3])
    torch.mul(slopes[:, :, 0], candidate, out=factors[:, :, 0])
    torch.mul(slopes[:, :, 1], before, out=factors[:, :, 1])
    torch.mul(slopes[:, :, 2], squashed, out=factors[:, :, 2])
    torch.mul(torch.rsub(candidate * candidate, 1), enter, out=factors[:, :, 3])
    onward = forget.addcmul(factors[:, :, 0], peephole[0]).addcmul_(factors[:, :, 1], peephole[1])
    inward = torch.rsub(squashed * squashed, 1).mul_(leave).addcmul_(factors[:, :, 2], peephole[2])
    if real is None:
        return factors, onward, inward
    return factors * real[:, :, None], torch.where(real, onward, 1), inward * real
