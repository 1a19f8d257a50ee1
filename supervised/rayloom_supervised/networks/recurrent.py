"""Networks: linear, multilayer perceptron, LeNet-5, stacked convolutions, recurrent over an image's rows.

Initialisation, from torch's global generator. Hidden layers that rectify (relu, softplus): He et al. (2015), normal
with variance 2 / inputs. Hidden layers that saturate (tanh, logistic) and output layers: Glorot and Bengio (2010),
uniform with variance 2 / (inputs + outputs). Biases: 0. A linear model starts at 0, for its problem is convex.
Recurrent cells: see `initialize_cell`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from rayloom_supervised.layers.activations import Activation
from rayloom_supervised.networks.perceptrons import MLP

Cell = Literal["rnn", "lstm", "gru"]

_CELLS: dict[Cell, type[nn.RNN | nn.LSTM | nn.GRU]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


def initialize_cell(cell: nn.RNNBase) -> None:
    """Draw the weights of a recurrent layer, each gate as a matrix of its own; biases 0, an LSTM's forget gates 1.

    From the input: Glorot and Bengio (2010), uniform. From the last state: orthogonal (Saxe et al. 2014), which keeps
    the state's length over many steps. Forget gates that start open: Jozefowicz et al. (2015).
    """
    size = cell.hidden_size
    with torch.no_grad():
        for name, parameter in cell.named_parameters():
            if name.startswith("weight_ih"):
                for gate in parameter.chunk(len(parameter) // size):
                    nn.init.xavier_uniform_(gate)
            elif name.startswith("weight_hh"):
                for gate in parameter.chunk(len(parameter) // size):
                    nn.init.orthogonal_(gate)
            else:
                nn.init.zeros_(parameter)
                # torch orders an LSTM's gates input, forget, cell, output, and adds two biases: one of them is enough.
                if isinstance(cell, nn.LSTM) and name.startswith("bias_ih"):
                    parameter[size : 2 * size] = 1


class RecurrentNetwork(nn.Module):
    """Reads an image row by row, from the top; the last layer's state after the last row feeds the classifier.

    Cells: Elman's with tanh (1990); LSTM (Hochreiter and Schmidhuber 1997) with forget gates (Gers et al. 2000) and
    without peepholes; GRU (Cho et al. 2014) in torch's form, which resets the state after its matrix.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        outputs: int,
        cell: Cell = "lstm",
        cell_size: int = 128,
        cell_layers: int = 1,
        hidden_sizes: Sequence[int] = (),
        activation: Activation = "relu",
        dropout: float = 0.0,
    ) -> None:
        """Build for images of `shape` (C, H, W): H time steps of C * W features."""
        super().__init__()
        self.cell = _CELLS[cell](shape[0] * shape[2], cell_size, cell_layers, batch_first=True)
        initialize_cell(self.cell)
        self.classifier = MLP((cell_size, *hidden_sizes, outputs), activation, dropout)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, C, H, W] to [B, outputs]."""
        states, _ = self.cell(images.transpose(1, 2).flatten(2))
        outputs: Tensor = self.classifier(states[:, -1])
        return outputs
