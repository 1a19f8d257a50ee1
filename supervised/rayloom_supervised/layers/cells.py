"""Recurrent cells, as the texts write them: each has one linear map of all inputs, and one step of the state.

Equations are those of Qiu, *Neural Networks and Deep Learning* (2015). Inputs are projected for a whole sequence at
once; `step` does what remains at every time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from rayloom_supervised.layers.peephole_scan import Scan, peephole_scan
from rayloom_supervised.layers.reset_first_scan import reset_first_scan

State = tuple[Tensor, ...]
"""What a cell carries from step to step, each [B, size]; the first is its output h."""


def scan_by_steps(
    step: Callable[[Tensor, State], State], projected: Tensor, state: State, real: Tensor | None
) -> tuple[Tensor, State]:
    """Return what `Cell.scan` returns, by one step after the other."""
    outputs: list[Tensor] = []
    for time, given in enumerate(projected.unbind()):
        new = step(given, state)
        if real is not None:
            new = tuple(torch.where(real[time], after, before) for after, before in zip(new, state, strict=True))
        state = new
        outputs.append(state[0])
    return torch.stack(outputs), state


class Cell(nn.Module):
    """Base of the cells: `project` inputs [T, B, F] to [T, B, gates * size], then `step` over T."""

    gates: ClassVar[int] = 1
    """Linear maps of the input."""
    memories: ClassVar[int] = 1
    """Tensors in the state."""
    recurrent_gates: ClassVar[int] = 1
    """Square matrices that the last output is multiplied with."""

    def __init__(self, inputs: int, size: int, *, bias: bool = False) -> None:
        """Draw input weights by Glorot and Bengio (2010), recurrent ones orthogonal, gate by gate; biases are 0."""
        super().__init__()
        self.size = size
        self.input = nn.Linear(inputs, self.gates * size, bias=bias)
        for gate in self.input.weight.detach().chunk(self.gates):
            nn.init.xavier_uniform_(gate)
        if bias:
            nn.init.zeros_(self.input.bias)
        blocks = [nn.init.orthogonal_(torch.empty(size, size)) for _ in range(self.recurrent_gates)]
        self.recurrent = nn.Parameter(torch.cat(blocks)) if blocks else None

    def project(self, inputs: Tensor) -> Tensor:
        """Map inputs [..., F] to what the gates get from them [..., gates * size]."""
        projected: Tensor = self.input(inputs)
        return projected

    def initial_state(self, like: Tensor) -> State:
        """Return zeros [B, size] of the type and device of `like` [B, ...]."""
        return tuple(like.new_zeros(like.shape[0], self.size) for _ in range(self.memories))

    def step(self, projected: Tensor, state: State) -> State:
        """Return the state after one more input, which is given as `projected` [B, gates * size]."""
        raise NotImplementedError(f"{type(self).__name__} must implement step()")

    def scan(self, projected: Tensor, state: State, real: Tensor | None) -> tuple[Tensor, State]:
        """Return the outputs [T, B, size] over `projected` [T, B, gates * size], and the state after them.

        `real` [T, B, 1] (bool): where it is False the state stays as it was; None: nowhere.
        """
        return scan_by_steps(self.step, projected, state, real)

    def _from_state(self, hidden: Tensor) -> Tensor:
        assert self.recurrent is not None, "a cell without recurrent weights has no such map"
        return hidden @ self.recurrent.T


class SimpleCell(Cell):
    """The simple recurrent network of equation 177: h(t) = tanh(U h(t-1) + W x(t) + b)."""

    def __init__(self, inputs: int, size: int) -> None:
        """Build the cell with its bias."""
        super().__init__(inputs, size, bias=True)

    def step(self, projected: Tensor, state: State) -> State:
        """Apply equation 177."""
        return (torch.tanh(projected + self._from_state(state[0])),)


class LinearCell(Cell):
    """Equation 184: h(t) = h(t-1) + W tanh(x(t)); the gradient neither vanishes nor explodes."""

    recurrent_gates = 0

    def project(self, inputs: Tensor) -> Tensor:
        """Return W tanh(x), which a padded input of zeros does not change."""
        projected: Tensor = self.input(torch.tanh(inputs))
        return projected

    def step(self, projected: Tensor, state: State) -> State:
        """Apply equation 184."""
        return (state[0] + projected,)


class LinearMemoryCell(LinearCell):
    """Equations 185 and 186: c(t) = c(t-1) + W tanh(x(t)), h(t) = tanh(c(t)): linear memory, nonlinear output."""

    memories = 2

    def step(self, projected: Tensor, state: State) -> State:
        """Apply equations 185 and 186."""
        memory = state[1] + projected
        return torch.tanh(memory), memory


class PeepholeLSTMCell(Cell):
    """The LSTM of equations 187 to 192, with diagonal peepholes and without biases (Gers et al. 2002).

    i = s(W_i x + U_i h(t-1) + v_i c(t-1)), f likewise, c~ = tanh(W_c x + U_c h(t-1)), c = f c(t-1) + i c~,
    o = s(W_o x + U_o h(t-1) + v_o c(t)), h = o tanh(c). Gates lie in the order i, f, o, c~.
    """

    gates = 4
    memories = 2
    recurrent_gates = 4

    def __init__(self, inputs: int, size: int) -> None:
        """Build the cell; peepholes (of i, f, o) start at 0."""
        super().__init__(inputs, size)
        self.peephole = nn.Parameter(torch.zeros(3, size))

    def step(self, projected: Tensor, state: State) -> State:
        """Apply equations 187 to 192."""
        hidden, memory = state
        assert self.recurrent is not None
        return _peephole_step(projected, self.recurrent, self.peephole, hidden, memory)

    def scan(self, projected: Tensor, state: State, real: Tensor | None) -> tuple[Tensor, State]:
        """Return the same as time by time; the gradient is written out, which is faster."""
        assert self.recurrent is not None
        if not _can_be_written_out(projected, self.recurrent, *state):
            return super().scan(projected, state, real)
        hidden, memory = state
        outputs, *after = peephole_scan(
            projected, self.recurrent, self.peephole, (hidden, memory), real, partial(_scan_plainly, real)
        )
        return outputs, tuple(after)


def _can_be_written_out(*tensors: Tensor) -> bool:
    """Return whether a scan's gradient may be: a compiler sees through each step, and autocast chooses types."""
    kinds = {tensor.dtype for tensor in tensors}
    tracing = torch.compiler.is_compiling() or torch.is_autocast_enabled(tensors[0].device.type)
    return not tracing and len(kinds) == 1 and len(tensors[0]) > 0


def _peephole_step(
    projected: Tensor, recurrent: Tensor, peephole: Tensor, hidden: Tensor, memory: Tensor
) -> tuple[Tensor, Tensor]:
    """Return output and memory [B, size] after one more input (equations 187 to 192)."""
    enter, forget, leave, candidate = (projected + hidden @ recurrent.T).chunk(4, dim=1)
    enter = torch.sigmoid(enter + peephole[0] * memory)
    forget = torch.sigmoid(forget + peephole[1] * memory)
    memory = forget * memory + enter * torch.tanh(candidate)
    leave = torch.sigmoid(leave + peephole[2] * memory)
    return leave * torch.tanh(memory), memory


def _scan_plainly(
    real: Tensor | None, projected: Tensor, recurrent: Tensor, peephole: Tensor, hidden: Tensor, memory: Tensor
) -> Scan:
    """Return outputs [T, B, size], and output and memory after them, step by step."""

    def step(given: Tensor, state: State) -> State:
        return _peephole_step(given, recurrent, peephole, *state)

    outputs, (hidden, memory) = scan_by_steps(step, projected, (hidden, memory), real)
    return outputs, hidden, memory


class ResetFirstGRUCell(Cell):
    """The GRU of equations 193 to 196 (Cho et al. 2014), without biases, which resets the state before its matrix.

    r = s(W_r x + U_r h(t-1)), z = s(W_z x + U_z h(t-1)), h~ = tanh(W x + U (r h(t-1))), h = z h(t-1) + (1 - z) h~.
    Gates lie in the order r, z, h~.
    """

    gates = 3
    recurrent_gates = 3

    def step(self, projected: Tensor, state: State) -> State:
        """Apply equations 193 to 196."""
        assert self.recurrent is not None
        return (_reset_first_step(projected, self.recurrent, state[0]),)

    def scan(self, projected: Tensor, state: State, real: Tensor | None) -> tuple[Tensor, State]:
        """Return the same as time by time; the gradient is written out, which is faster."""
        assert self.recurrent is not None
        if not _can_be_written_out(projected, self.recurrent, *state):
            return super().scan(projected, state, real)
        plain = partial(_scan_reset_first, real)
        outputs, after = reset_first_scan(projected, self.recurrent, state[0], real, plain)
        return outputs, (after,)


def _reset_first_step(projected: Tensor, recurrent: Tensor, hidden: Tensor) -> Tensor:
    """Return the output [B, size] after one more input (equations 193 to 196)."""
    size = hidden.shape[1]
    reset, keep = torch.sigmoid(projected[:, : 2 * size] + hidden @ recurrent[: 2 * size].T).chunk(2, dim=1)
    candidate = torch.tanh(projected[:, 2 * size :] + (reset * hidden) @ recurrent[2 * size :].T)
    return keep * hidden + (1 - keep) * candidate


def _scan_reset_first(
    real: Tensor | None, projected: Tensor, recurrent: Tensor, hidden: Tensor
) -> tuple[Tensor, Tensor]:
    """Return outputs [T, B, size], and the output after them, step by step."""

    def step(given: Tensor, state: State) -> State:
        return (_reset_first_step(given, recurrent, *state),)

    outputs, (last,) = scan_by_steps(step, projected, (hidden,), real)
    return outputs, last
