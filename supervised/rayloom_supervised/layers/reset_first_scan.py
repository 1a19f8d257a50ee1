"""The GRU that resets its state before the matrix over a whole sequence, with its gradient written out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rayloom_supervised.layers.written_out import by_steps, slope, time_blocks

Scan = tuple[Tensor, Tensor]
"""Outputs [T, B, H], and the output [B, H] after them."""
Plain = Callable[[Tensor, Tensor, Tensor], Scan]


def reset_first_scan(
    projected: Tensor, recurrent: Tensor, hidden: Tensor, real: Tensor | None, plain: Plain
) -> Scan:  # fmt: skip
    """Return what `plain(projected, recurrent, hidden)` returns, faster.

    `projected` [T, B, 3 H] of the gates r, z and of h~; `recurrent` [3 H, H]; `hidden`: the output [B, H] before the
    first; `real` [T, B, 1]: where it is False the state stays. `plain` is differentiated where a gradient is itself to
    have one.
    """
    apply: Callable[..., Scan] = _ResetFirstScan.apply
    return apply(projected, recurrent, hidden, real, plain)


class _ResetFirstScan(torch.autograd.Function):
    """Equations 193 to 196 over time, and their gradient."""

    @staticmethod
    def forward(
        ctx: Any, projected: Tensor, recurrent: Tensor, hidden: Tensor, real: Tensor | None, plain: Plain
    ) -> Scan:
        """Keep the gates r and z [T, B, 2 H], h~ and r h(t-1) [T, B, H], and outputs [T + 1, B, H] from the first."""
        times, batch, size = len(projected), len(hidden), hidden.shape[1]
        gates = hidden.new_empty(times, batch, 2 * size)
        candidates, resets = hidden.new_empty(times, batch, size), hidden.new_empty(times, batch, size)
        hiddens = hidden.new_empty(times + 1, batch, size)
        hiddens[0] = hidden
        # A product with a matrix that lies as it is read takes two thirds of the time.
        to_gates, to_candidate = recurrent[: 2 * size].T.contiguous(), recurrent[2 * size :].T.contiguous()
        output = hiddens.unbind()
        # All views at once: one by one they would take as long as the arithmetic of a small batch.
        given_parts = (projected[:, :, : 2 * size], projected[:, :, 2 * size :])
        steps = (*given_parts, gates, *gates.chunk(2, dim=2), candidates, resets)
        for time, (given, drawn, both, reset, keep, candidate, cut) in enumerate(
            zip(*(part.unbind() for part in steps), strict=True)
        ):
            last, new = output[time], output[time + 1]
            torch.addmm(given, last, to_gates, out=both).sigmoid_()
            torch.mul(reset, last, out=cut)
            torch.addmm(drawn, cut, to_candidate, out=candidate).tanh_()
            torch.lerp(candidate, last, keep, out=new)
            if real is not None:
                new.copy_(torch.where(real[time], new, last))
        ctx.save_for_backward(projected, recurrent, hidden, real, gates, candidates, resets, hiddens)
        ctx.plain = plain
        return hiddens[1:], hiddens[-1].clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of projected, recurrent and hidden."""
        projected, recurrent, hidden, real, gates, candidates, resets, hiddens = ctx.saved_tensors
        if torch.is_grad_enabled():  # of a gradient that is to have a gradient
            return (*by_steps(ctx.plain, (projected, recurrent, hidden), ctx.needs_input_grad[:3], grads), None, None)
        times, batch, size = candidates.shape
        of_gates, of_candidate = recurrent[: 2 * size], recurrent[2 * size :]
        summed = projected.new_empty(times, batch, 3 * size)
        """The gradient of the sums of r, z and h~."""
        outputs = grads[0].unbind()
        to_hidden, to_cut = grads[1] + outputs[-1], torch.empty_like(hidden)
        for block in time_blocks(times, hidden):
            valid = None if real is None else real[block]
            factors, reset, keep = _factors(gates[block], candidates[block], hiddens[:-1][block], valid)
            found = summed[block]
            both_gates, candidate = found[:, :, : 2 * size], found[:, :, 2 * size :]
            rows = (*factors, reset, keep, both_gates, candidate, *both_gates.chunk(2, dim=2))
            steps = list(zip(*(part.unbind() for part in rows), strict=True))
            for place in range(len(steps) - 1, -1, -1):
                by_reset, by_keep, by_candidate, reset_now, keep_now, both, drawn, to_reset, to_keep = steps[place]
                torch.mul(by_keep, to_hidden, out=to_keep)
                torch.mm(torch.mul(by_candidate, to_hidden, out=drawn), of_candidate, out=to_cut)
                torch.mul(by_reset, to_cut, out=to_reset)
                time = block.start + place
                earlier = torch.addcmul(outputs[time - 1], to_hidden, keep_now) if time else to_hidden * keep_now
                to_hidden = earlier.addcmul_(to_cut, reset_now).addmm_(both, of_gates)
        rows_of_time = summed.view(times * batch, 3 * size)
        to_recurrent = torch.cat(
            (rows_of_time[:, : 2 * size].T @ hiddens[:-1].reshape(times * batch, size),
             rows_of_time[:, 2 * size :].T @ resets.view(times * batch, size))
        )  # fmt: skip
        return summed.view_as(projected), to_recurrent, to_hidden, None, None


def _factors(
    gates: Tensor, candidates: Tensor, before: Tensor, real: Tensor | None
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor, Tensor]:
    """Return how the sums of r answer to the gradient of r h(t-1), and those of z and h~ to that of the output.

    Further r and z, by which those gradients go on to the output before: [T, B, H] each. Over padding nothing answers,
    and all goes on.
    """
    reset, keep = gates.chunk(2, dim=2)
    by_reset, by_keep = slope(gates).chunk(2, dim=2)
    by_reset, by_keep = by_reset * before, (before - candidates).mul_(by_keep)
    by_candidate = torch.rsub(candidates * candidates, 1).mul_(torch.rsub(keep, 1))
    if real is None:
        return (by_reset, by_keep, by_candidate), reset, keep
    return (by_reset * real, by_keep * real, by_candidate * real), reset, torch.where(real, keep, 1)
