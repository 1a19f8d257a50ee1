"""A recurrent core: features of a step and the memory of the episode to features of the episode so far."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Memory(nn.Module):
    """An LSTM cell whose state is one tensor [N, 2 * size] (hidden, then cell) and is zero where an episode begins."""

    def __init__(self, inputs: int, size: int) -> None:
        """Initialise orthogonally, with biases of zero."""
        super().__init__()
        self.size = size
        self.cell = nn.LSTMCell(inputs, size)
        for name, parameter in self.cell.named_parameters():
            nn.init.zeros_(parameter) if "bias" in name else nn.init.orthogonal_(parameter)

    def initial_state(self, number: int) -> Tensor:
        """Return the state [N, 2 * size] before an episode's first step."""
        return torch.zeros(number, 2 * self.size, device=self.cell.weight_ih.device)

    def step(self, features: Tensor, state: Tensor) -> Tensor:
        """Return the state after a step; its first half [N, size] is what the step's outputs depend on."""
        hidden, cell = state.chunk(2, dim=1)
        return torch.cat(self.cell(features, (hidden.contiguous(), cell.contiguous())), dim=1)

    def unroll(self, features: Tensor, state: Tensor, first: Tensor) -> Tensor:
        """Return the states [T, N, 2 * size] after each step of features [T, N, I], which begins where `first` says."""
        states = []
        for step, fresh in zip(features.unbind(), (~first).unsqueeze(2).to(state.dtype).unbind(), strict=True):
            state = self.step(step, state * fresh)
            states.append(state)
        return torch.stack(states)
