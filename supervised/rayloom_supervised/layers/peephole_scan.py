"""The LSTM with peepholes over a whole sequence, with its gradient written out.

Automatic differentiation records a dozen small operations at each time and adds up the gradient of the recurrent
matrix time by time. Here the gradient's factors are worked out for all times at once, six operations remain at each,
and the matrix's gradient is one product at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

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
        gates = torch.empty_like(projected, memory_format=torch.contiguous_format).view(times, batch, 4, size)
        hiddens, memories = hidden.new_empty(times + 1, batch, size), hidden.new_empty(times + 1, batch, size)
        squashed = hidden.new_empty(times, batch, size)
        hiddens[0], memories[0] = hidden, memory
        transposed = recurrent.T
        for time, (gate, given) in enumerate(zip(gates.unbind(), projected.unbind(), strict=True)):
            torch.addmm(given, hiddens[time], transposed, out=gate.view(batch, 4 * size))
            last, new = memories[time], memories[time + 1]
            inner = gate[:, :2]
            inner.addcmul_(peephole[:2], last[:, None]).sigmoid_()
            gate[:, 3].tanh_()
            torch.mul(gate[:, 1], last, out=new).addcmul_(gate[:, 0], gate[:, 3])
            gate[:, 2].addcmul_(peephole[2], new).sigmoid_()
            torch.mul(gate[:, 2], torch.tanh(new, out=squashed[time]), out=hiddens[time + 1])
            if real is not None:
                hiddens[time + 1] = torch.where(real[time], hiddens[time + 1], hiddens[time])
                memories[time + 1] = torch.where(real[time], new, last)
        ctx.save_for_backward(projected, recurrent, peephole, hidden, memory, real, gates, hiddens, memories, squashed)
        ctx.plain = plain
        return hiddens[1:], hiddens[-1].clone(), memories[-1].clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of projected, recurrent, peephole, hidden and memory."""
        projected, recurrent, peephole, hidden, memory, real, gates, hiddens, memories, squashed = ctx.saved_tensors
        if torch.is_grad_enabled():  # of a gradient that is to have a gradient
            inputs = (projected, recurrent, peephole, hidden, memory)
            needed = [value for value, asked in zip(inputs, ctx.needs_input_grad, strict=False) if asked]
            found = iter(torch.autograd.grad(ctx.plain(*inputs), needed, grads, create_graph=True, allow_unused=True))
            return (*(next(found) if asked else None for asked in ctx.needs_input_grad[:5]), None, None)
        enter, forget, leave, candidate = gates.unbind(2)
        before = memories[:-1]
        # How the sums of the gates (i, f, o, c~) answer to the memory's gradient, and o's to the output's.
        factors = torch.stack(
            (candidate * enter * (1 - enter), before * forget * (1 - forget), squashed * leave * (1 - leave),
             enter * (1 - candidate * candidate)), dim=2,
        )  # fmt: skip
        onward = forget + factors[:, :, 0] * peephole[0] + factors[:, :, 1] * peephole[1]
        inward = leave * (1 - squashed * squashed) + factors[:, :, 2] * peephole[2]
        if real is not None:
            factors, inward = factors * real[:, :, None], inward * real
            onward = torch.where(real, onward, 1)
            still = (~real).to(hidden.dtype)
        output = factors[:, :, 2].clone()
        summed = factors  # becomes the gradient of the gates' sums, time by time
        outputs, to_hidden, to_memory = grads[0], grads[1].clone(), grads[2].clone()
        batch, width = gates.shape[1], 4 * gates.shape[3]
        for time in range(len(gates) - 1, -1, -1):
            to_hidden = to_hidden + outputs[time]
            to_memory.addcmul_(to_hidden, inward[time])
            summed[time].mul_(to_memory[:, None])
            torch.mul(output[time], to_hidden, out=summed[time, :, 2])
            to_memory.mul_(onward[time])
            carried = summed[time].view(batch, width) @ recurrent
            to_hidden = carried if real is None else carried.addcmul_(to_hidden, still[time])
        flat = summed.view(-1, width)
        to_peephole = torch.stack(
            ((summed[:, :, 0] * before).sum((0, 1)), (summed[:, :, 1] * before).sum((0, 1)),
             (summed[:, :, 2] * _after(gates, before)).sum((0, 1)))
        )  # fmt: skip
        to_recurrent = flat.T @ hiddens[:-1].reshape(len(flat), -1)
        return summed.view_as(projected), to_recurrent, to_peephole, to_hidden, to_memory, None, None


def _after(gates: Tensor, before: Tensor) -> Tensor:
    """Return the memories [T, B, H] that the gates make of those before them."""
    enter, forget, _, candidate = gates.unbind(2)
    return forget * before + enter * candidate
