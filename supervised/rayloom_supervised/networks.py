"""Networks: linear, multilayer perceptron, LeNet-5, stacked convolutions, recurrent over an image's rows.

Initialisation, from torch's global generator. Hidden layers that rectify (relu, softplus): He et al. (2015), normal
with variance 2 / inputs. Hidden layers that saturate (tanh, logistic) and output layers: Glorot and Bengio (2010),
uniform with variance 2 / (inputs + outputs). Biases: 0. A linear model starts at 0, for its problem is convex.
Recurrent cells: see `initialize_cell`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

Activation = Literal["relu", "tanh", "logistic", "softplus"]
Cell = Literal["rnn", "lstm", "gru"]

_ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "logistic": nn.Sigmoid,
    "softplus": nn.Softplus,
}
_CELLS: dict[Cell, type[nn.RNN | nn.LSTM | nn.GRU]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


def activation_module(activation: Activation) -> nn.Module:
    """Return a new module that computes the activation."""
    return _ACTIVATIONS[activation]()


def initialize_hidden(layer: nn.Linear | nn.Conv2d, activation: Activation) -> None:
    """Draw the weights of a hidden layer as its activation needs them; biases 0."""
    if activation in ("relu", "softplus"):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    else:
        nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def initialize_output(layer: nn.Linear) -> None:
    """Draw the weights of an output layer; biases 0."""
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)


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


class Linear(nn.Module):
    """An affine map of the flattened input [B, ...] to [B, outputs], all zeros at the start."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.output = nn.Linear(inputs, outputs)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return [B, outputs]."""
        outputs: Tensor = self.output(inputs.flatten(1))
        return outputs


class MLP(nn.Module):
    """Fully connected layers of the given sizes, inputs first; activation and dropout after each but the last."""

    def __init__(self, sizes: Sequence[int], activation: Activation, dropout: float = 0.0) -> None:
        super().__init__()
        assert len(sizes) >= 2, "sizes hold the inputs and the outputs at least"
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes[:-1]):
            hidden = nn.Linear(inputs, outputs)
            initialize_hidden(hidden, activation)
            layers += [hidden, activation_module(activation)]
            if dropout > 0:
                layers.append(nn.Dropout(dropout))
        output = nn.Linear(sizes[-2], sizes[-1])
        initialize_output(output)
        self.layers = nn.Sequential(*layers, output)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map [B, ...], flattened, to [B, sizes[-1]]."""
        outputs: Tensor = self.layers(inputs.flatten(1))
        return outputs


class LeNet5(nn.Module):
    """The modern form of LeNet-5 (LeCun et al. 1998, "Gradient-based learning applied to document recognition").

    Departures from the paper: dense second convolution instead of the connection table, max pooling without trainable
    coefficients, any activation, linear outputs instead of radial basis functions, optional dropout on the fully
    connected layers. The first convolution pads by 2, so that 28x28 images give the paper's maps. Images with a side
    below 16 pixels get a second convolution of 3x3 that pads by 1, for 5x5 would not fit into 4x4 maps.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        outputs: int,
        channels: tuple[int, int] = (6, 16),
        hidden_sizes: Sequence[int] = (120, 84),
        activation: Activation = "relu",
        dropout: float = 0.0,
    ) -> None:
        """Build for images of `shape` (C, H, W), each side at least 4."""
        super().__init__()
        small = min(shape[1:]) < 16
        first = nn.Conv2d(shape[0], channels[0], 5, padding=2)
        second = nn.Conv2d(channels[0], channels[1], 3 if small else 5, padding=1 if small else 0)
        for convolution in (first, second):
            initialize_hidden(convolution, activation)
        self.features = nn.Sequential(
            first,
            activation_module(activation),
            nn.MaxPool2d(2),
            second,
            activation_module(activation),
            nn.MaxPool2d(2),
        )
        height, width = ((side // 2 if small else side // 2 - 4) // 2 for side in shape[1:])
        self.classifier = MLP((channels[1] * height * width, *hidden_sizes, outputs), activation, dropout)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, C, H, W] to [B, outputs]."""
        outputs: Tensor = self.classifier(self.features(images))
        return outputs


class ConvolutionalNetwork(nn.Module):
    """Blocks of a 3x3 convolution that pads by 1, activation and 2x2 max pooling, then fully connected layers.

    Small filters in depth follow Simonyan and Zisserman (2015). A block leaves its pooling out once a side of the maps
    is 1, so that any number of blocks fits images of any size; pooling drops the last row or column of an odd side.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        outputs: int,
        channels: Sequence[int] = (32, 64),
        hidden_sizes: Sequence[int] = (128,),
        activation: Activation = "relu",
        dropout: float = 0.0,
    ) -> None:
        """Build one block for each of `channels`, for images of `shape` (C, H, W)."""
        super().__init__()
        layers: list[nn.Module] = []
        _, height, width = shape
        for inputs, maps in pairwise((shape[0], *channels)):
            convolution = nn.Conv2d(inputs, maps, 3, padding=1)
            initialize_hidden(convolution, activation)
            layers += [convolution, activation_module(activation)]
            if min(height, width) >= 2:
                layers.append(nn.MaxPool2d(2))
                height, width = height // 2, width // 2
        self.features = nn.Sequential(*layers)
        self.classifier = MLP((channels[-1] * height * width, *hidden_sizes, outputs), activation, dropout)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, C, H, W] to [B, outputs]."""
        outputs: Tensor = self.classifier(self.features(images))
        return outputs


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
