"""Recurrent layers over padded sequences of unequal length: stacked, bidirectional, of any cell.

Padding influences neither a value nor a gradient, whatever number it holds: inputs there are set to zero, states are
carried over it unchanged, and outputs there are zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, cast

import torch
from torch import Tensor, nn

from rayloom_supervised.layers.cells import (
    Cell,
    LinearCell,
    LinearMemoryCell,
    PeepholeLSTMCell,
    ResetFirstGRUCell,
    SimpleCell,
    State,
)
from rayloom_supervised.layers.padding import inside, last_real, turned

CellName = Literal["srn", "linear", "linear_memory", "peephole_lstm", "reset_first_gru", "lstm", "gru"]
"""srn, linear, linear_memory, peephole_lstm, reset_first_gru: the texts' cells (equations 177, 184, 185-186, 187-192,
193-196). lstm, gru: torch's, with biases, without peepholes, reset after the matrix. On a CPU peephole_lstm takes up to
a quarter longer than lstm, and reset_first_gru less time than gru; srn and the linear ones go step by step."""

_CELLS: dict[str, type[Cell]] = {
    "srn": SimpleCell,
    "linear": LinearCell,
    "linear_memory": LinearMemoryCell,
    "peephole_lstm": PeepholeLSTMCell,
    "reset_first_gru": ResetFirstGRUCell,
}
_FUSED: dict[str, type[nn.LSTM] | type[nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU}


class RecurrentLayer(nn.Module):
    """One cell that reads sequences from left to right, or from right to left."""

    def __init__(self, cell: Cell, *, reverse: bool = False) -> None:
        """Read with `cell`; `reverse`: from the last real place to the first."""
        super().__init__()
        self.cell = cell
        self.reverse = reverse

    def forward(
        self, inputs: Tensor, lengths: Tensor | None = None, state: State | None = None
    ) -> tuple[Tensor, State]:
        """Map inputs [B, T, F] to the outputs [B, T, size] and the state after the last real place of each sequence.

        `lengths` [B] (int64): how many places are real; None: all. `state`: before the first; None: zeros.
        """
        valid = None if lengths is None else inside(lengths, inputs.shape[1])
        if valid is not None:
            inputs = inputs.masked_fill(~valid[:, :, None], 0)
        state = self.cell.initial_state(inputs) if state is None else state
        projected = self.cell.project(inputs.transpose(0, 1))  # by time, so that neither pass copies the gates
        real = None if valid is None else valid.T[:, :, None]
        if self.reverse:
            projected, real = projected.flip(0), None if real is None else real.flip(0)
        outputs, state = self.cell.scan(projected, state, real)
        stacked = (outputs.flip(0) if self.reverse else outputs).transpose(0, 1).contiguous()
        return (stacked if valid is None else stacked.masked_fill(~valid[:, :, None], 0)), state


class RecurrentStack(nn.Module):
    """Recurrent layers on top of each other, each in one direction or in both (Schuster and Paliwal 1997)."""

    def __init__(self, cell: CellName, inputs: int, size: int, layers: int = 1, *, bidirectional: bool = False) -> None:
        """Build `layers` of `size` units in each direction for inputs of `inputs` features."""
        super().__init__()
        self.directions = 2 if bidirectional else 1
        self.outputs = self.directions * size
        """Features of an output: the directions one after the other."""
        widths = [inputs, *[self.outputs] * (layers - 1)]
        self.memories = {"lstm": 2, "gru": 1}.get(cell) or _CELLS[cell].memories
        """Tensors in the state of a layer."""
        self._run = _run_fused if cell in _FUSED else _run_own
        self.layers = nn.ModuleList(
            nn.ModuleList(_make(cell, width, size, reverse=direction == 1) for direction in range(self.directions))
            for width in widths
        )

    def forward(
        self,
        inputs: Tensor,
        lengths: Tensor | None = None,
        states: list[State] | None = None,
        between: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, list[State]]:
        """Map inputs [B, T, F] to the top layer's outputs [B, T, outputs] and the states after them.

        `states` and the returned ones: one for each layer and direction, the layers from below; the first tensor of
        each is its last output [B, size]. Of torch's cells over sequences of unequal length that is all there is.
        `between` is applied to the outputs of each layer below the top one (dropout, say).
        """
        after: list[State] = []
        for number, layer in enumerate(self.layers):
            inputs = between(inputs) if between is not None and number else inputs
            before = None if states is None else states[number * self.directions : (number + 1) * self.directions]
            inputs, ended = self._run(cast(nn.ModuleList, layer), inputs, lengths, before)
            after += ended
        return inputs, after

    def final(self, states: list[State]) -> Tensor:
        """Return the top layer's last outputs [B, outputs] out of what `forward` returned."""
        return torch.cat([state[0] for state in states[-self.directions :]], dim=1)

    def begin_from(self, output: Tensor) -> list[State]:
        """Return states of one layer and direction whose last output was `output` [B, size], further memory empty."""
        return [(output, *[torch.zeros_like(output)] * (self.memories - 1))]


def _make(cell: CellName, inputs: int, size: int, *, reverse: bool) -> nn.Module:
    """Return what reads in one direction; torch's cells are handed turned sequences."""
    if cell in _FUSED:
        return _FUSED[cell](inputs, size, batch_first=True)
    return RecurrentLayer(_CELLS[cell](inputs, size), reverse=reverse)


def _run_own(
    directions: nn.ModuleList, inputs: Tensor, lengths: Tensor | None, states: list[State] | None
) -> tuple[Tensor, list[State]]:
    """Run the texts' cells in each direction."""
    outputs, ended = [], []
    for number, direction in enumerate(directions):
        output, state = direction(inputs, lengths, None if states is None else states[number])
        outputs.append(output)
        ended.append(state)
    return torch.cat(outputs, dim=2), ended


def _run_fused(
    directions: nn.ModuleList, inputs: Tensor, lengths: Tensor | None, states: list[State] | None
) -> tuple[Tensor, list[State]]:
    """Run torch's cell in each direction; with lengths only the output after the last real place is known.

    Packed sequences would need the lengths on the host. What is read before the padding does not depend on it, and a
    sequence is turned around within its length.
    """
    valid = None if lengths is None else inside(lengths, inputs.shape[1])[:, :, None]
    real = inputs if valid is None else inputs.masked_fill(~valid, 0)
    outputs, ended = [], []
    for number, layer in enumerate(directions):
        before = None if states is None else tuple(part[None] for part in states[number])
        hidden = before if before is None or isinstance(layer, nn.LSTM) else before[0]
        output, after = layer(turned(real, lengths) if number else real, hidden)
        if lengths is None or valid is None:
            ended.append(tuple(part[0] for part in (after if isinstance(layer, nn.LSTM) else (after,))))
        else:
            ended.append((last_real(output, lengths),))
            output = output.masked_fill(~valid, 0)
        outputs.append(turned(output, lengths) if number else output)
    return torch.cat(outputs, dim=2), ended
