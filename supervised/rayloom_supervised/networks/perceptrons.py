"""Networks of fully connected layers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from rayloom_supervised.layers.activations import Activation, activation_module, initialize_hidden, initialize_output


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
