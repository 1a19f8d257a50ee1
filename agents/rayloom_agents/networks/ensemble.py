"""Several networks of one form, evaluated together: the twin critics of TD3 and SAC."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Ensemble(nn.Module):
    """K networks of linear layers with ReLU between them: [B, sizes[0]] -> [K, B, sizes[-1]].

    One batched product a layer instead of K small ones. Initialised as torch's linear layers are.
    """

    def __init__(self, members: int, sizes: Sequence[int]) -> None:
        super().__init__()
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for inputs, outputs in itertools.pairwise(sizes):
            bound = 1 / math.sqrt(inputs)
            self.weights.append(nn.Parameter(torch.empty(members, inputs, outputs).uniform_(-bound, bound)))
            self.biases.append(nn.Parameter(torch.empty(members, 1, outputs).uniform_(-bound, bound)))
        self.members = members

    def forward(self, rows: Tensor) -> Tensor:
        """Return what each network says of the rows [B, I], [K, B, O]."""
        hidden = rows.expand(self.members, *rows.shape)
        last = len(self.weights) - 1
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias, hidden, weight)
            if index != last:
                hidden = torch.relu(hidden)
        return hidden
