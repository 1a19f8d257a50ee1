"""Encoders of fully connected layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rayloom_generative.networks.variational import beside
from rayloom_supervised.layers.activations import Activation
from rayloom_supervised.networks.perceptrons import MLP


class GaussianEncoder(nn.Module):
    """Maps an example to the mean and the log-variance of a diagonal normal over the latent variables.

    Without hidden layers the mean is affine and the log-variance the same for all examples, which is the form of
    probabilistic PCA's posterior.
    """

    def __init__(self, inputs: int, latent_size: int, hidden_sizes: Sequence[int], activation: Activation) -> None:
        super().__init__()
        self.shared_variance = not hidden_sizes
        outputs = latent_size if self.shared_variance else 2 * latent_size
        self.network = MLP((inputs, *hidden_sizes, outputs), activation)
        if self.shared_variance:
            self.log_variance = nn.Parameter(torch.zeros(latent_size))

    def forward(self, data: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map [B, ...], with a condition [B, N] beside them, to mean and log-variance, [B, L] each."""
        outputs: Tensor = self.network(beside(data, condition))
        if self.shared_variance:
            return outputs, self.log_variance.expand_as(outputs)
        mean, log_variance = outputs.chunk(2, dim=1)
        return mean, log_variance
