"""Binary trees in padded flat arrays, and cells that compose a node's state from those of its children.

A tree of N nodes is `token` [N], what stands at each node, and `children` [N, 2], the numbers of its left and right
child, -1 where there is none; children come before their parent, so that the root is the last node.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from rayloom_supervised.layers.padding import inside, last_real


class TreeCell(nn.Module):
    """Base of the cells: a state [B, memories * size] from what stands at a node and from its children's states."""

    gates: ClassVar[int] = 1
    """Linear maps of the input and of each child."""
    memories: ClassVar[int] = 1
    """Vectors in a state; the first is the output."""

    def __init__(self, inputs: int, size: int) -> None:
        """Draw every gate's matrix by Glorot and Bengio (2010); biases are 0."""
        super().__init__()
        self.size = size
        self.input = nn.Linear(inputs, self.gates * size)
        self.below = nn.Linear(2 * size, self.gates * size, bias=False)
        for linear in (self.input, self.below):
            for gate in linear.weight.detach().chunk(self.gates):
                nn.init.xavier_uniform_(gate)
        nn.init.zeros_(self.input.bias)

    def compose(self, given: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """Return the states [B, memories * size] of nodes with inputs `given` [B, gates * size] and these children."""
        raise NotImplementedError(f"{type(self).__name__} must implement compose()")


class RecursiveCell(TreeCell):
    """h = tanh(W [h_left; h_right] + V x + b) (Socher et al. 2011, equation 2, with an input at inner nodes too)."""

    def compose(self, given: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """Apply the equation."""
        return torch.tanh(given + self.below(torch.cat((left, right), dim=1)))


class TreeLSTMCell(TreeCell):
    """Binary Tree-LSTM (Tai et al. 2015, equations 9 to 14) with an input at every node.

    i, f_left, f_right, o = s(W x + U [h_left; h_right] + b) each, u likewise with tanh;
    c = i u + f_left c_left + f_right c_right, h = o tanh(c). Gates lie in the order i, f_left, f_right, o, u. One bias
    serves both forget gates in the paper; here each has its own, and begins at 1.
    """

    gates = 5
    memories = 2

    def __init__(self, inputs: int, size: int) -> None:
        """Open the forget gates."""
        super().__init__(inputs, size)
        nn.init.ones_(self.input.bias.detach()[size : 3 * size])

    def compose(self, given: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """Apply equations 9 to 14."""
        (h_left, c_left), (h_right, c_right) = left.chunk(2, dim=1), right.chunk(2, dim=1)
        gates = given + self.below(torch.cat((h_left, h_right), dim=1))
        enter, keep_left, keep_right, leave = torch.sigmoid(gates[:, : 4 * self.size]).chunk(4, dim=1)
        memory = enter * torch.tanh(gates[:, 4 * self.size :]) + keep_left * c_left + keep_right * c_right
        return torch.cat((leave * torch.tanh(memory), memory), dim=1)


class TreeLayer(nn.Module):
    """Composes trees from their leaves to their roots; padding influences neither a value nor a gradient.

    All trees of a batch advance by one node at a time: a loop over the longest tree's nodes, whatever the shapes are.
    """

    def __init__(self, cell: TreeCell) -> None:
        """Compose with `cell`."""
        super().__init__()
        self.cell = cell

    def forward(self, inputs: Tensor, children: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Map inputs [B, N, F] and children [B, N, 2] of true lengths [B] to outputs [B, N, size] and the roots'."""
        real = inside(lengths, inputs.shape[1])[:, :, None]
        given = self.cell.input(inputs.masked_fill(~real, 0)).unbind(1)
        # Place 0 stands for a child that is not there: its state is 0.
        places = children.masked_fill(~real, -1) + 1
        states = [given[0].new_zeros(len(inputs), self.cell.memories * self.cell.size)]
        for node, own in enumerate(given):
            known = torch.stack(states, dim=1)
            picked = places[:, node, :, None].expand(-1, -1, known.shape[2])
            left, right = known.gather(1, picked).unbind(1)
            states.append(self.cell.compose(own, left, right))
        outputs = torch.stack(states[1:], dim=1)[:, :, : self.cell.size].masked_fill(~real, 0)
        return outputs, last_real(outputs, lengths)
