"""Restricted Boltzmann machine: its conditionals, its Gibbs sampler and its statistics."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rayloom_generative.equations.boltzmann import free_energy

Draw = Callable[[Tensor], Tensor]
"""Draws a bit for each probability: the engine's noise in training, torch's in evaluations."""


class RestrictedBoltzmannMachine(nn.Module):
    """V visible and H hidden bits without connections inside a side, with the velocity of its training."""

    def __init__(self, visible: int, hidden: int) -> None:
        """Draw weights as Hinton (2012), "A practical guide to training restricted Boltzmann machines", section 8."""
        super().__init__()
        self.weight = nn.Parameter(0.01 * torch.randn(visible, hidden))
        self.visible_bias = nn.Parameter(torch.zeros(visible))
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))
        for name, parameter in list(self.named_parameters()):
            self.register_buffer(f"{name}_velocity", torch.zeros_like(parameter))

    def up(self, visible: Tensor) -> Tensor:
        """Return p(h = 1 | v) [B, H]."""
        return torch.sigmoid(visible @ self.weight + self.hidden_bias)

    def down(self, hidden: Tensor) -> Tensor:
        """Return p(v = 1 | h) [B, V]."""
        return torch.sigmoid(hidden @ self.weight.T + self.visible_bias)

    def free_energy(self, visible: Tensor) -> Tensor:
        """Return F(v) [B] in nats: -log p(v) = F(v) + log Z."""
        return free_energy(visible, self.weight, self.visible_bias, self.hidden_bias)

    def gibbs(self, visible: Tensor, steps: int, draw: Draw) -> tuple[Tensor, Tensor]:
        """Go `steps` times up and down from visible bits [B, V]; return the bits and their probabilities."""
        probability = visible
        for _ in range(steps):
            probability = self.down(draw(self.up(visible)))
            visible = draw(probability)
        return visible, probability

    def statistics(self, visible: Tensor) -> dict[str, Tensor]:
        """Return the sums over examples [B, V] of -dE/dparameter, expected over the hidden units, by parameter."""
        hidden = self.up(visible)
        return {"weight": visible.T @ hidden, "visible_bias": visible.sum(0), "hidden_bias": hidden.sum(0)}

    def climb(self, gradient: dict[str, Tensor], rate: float, momentum: float, weight_decay: float) -> None:
        """Change every parameter by its velocity, which the gradient of the log-likelihood drives."""
        for name, parameter in self.named_parameters():
            slope = gradient[name] - weight_decay * parameter if name == "weight" else gradient[name]
            velocity = self.get_buffer(f"{name}_velocity")
            velocity.mul_(momentum).add_(slope, alpha=rate)
            parameter.add_(velocity)

    def state_tensors(self) -> tuple[Tensor, ...]:
        """Return all that training changes: parameters and velocities."""
        return (*self.parameters(), *self.buffers())
