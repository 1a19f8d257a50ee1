"""What a decoder's outputs mean: the distribution of an example's D numbers given its code."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn

from rayloom_generative.equations.densities import bernoulli_log_density, gaussian_log_density


class Likelihood(nn.Module):
    """p(x|z) of independent numbers; data are flat [..., D], and the decoder has `outputs` numbers for each of them."""

    outputs = 1

    @abstractmethod
    def log_density(self, data: Tensor, decoded: Tensor) -> Tensor:
        """Return log p(data) [...] for the decoder's outputs [..., outputs * D]."""

    @abstractmethod
    def mean(self, decoded: Tensor) -> Tensor:
        """Return the mean [..., D]."""


class Bernoulli(Likelihood):
    """Bits, or grey values as their probabilities."""

    def log_density(self, data: Tensor, decoded: Tensor) -> Tensor:
        """Return the negative cross-entropy [...]."""
        return bernoulli_log_density(data, decoded)

    def mean(self, decoded: Tensor) -> Tensor:
        """Return the probabilities [..., D]."""
        return decoded.sigmoid()


class Gaussian(Likelihood):
    """Normal numbers with one variance, which is learned where no deviation is given."""

    def __init__(self, deviation: float | None, bounded: bool) -> None:
        super().__init__()
        self.bounded = bounded
        log_variance = torch.tensor(2 * math.log(deviation or 1.0))
        if deviation is None:
            self.log_variance = nn.Parameter(log_variance)
        else:
            self.register_buffer("log_variance", log_variance)

    def log_density(self, data: Tensor, decoded: Tensor) -> Tensor:
        """Return log N(data; decoded, variance) [...]."""
        return gaussian_log_density(data, decoded, self.log_variance)

    def mean(self, decoded: Tensor) -> Tensor:
        """Return the mean [..., D], of images between 0 and 1."""
        return decoded.clamp(0, 1) if self.bounded else decoded


class Categorical(Likelihood):
    """Grey values as one of several levels, each with a probability of its own (van den Oord et al. 2016)."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.outputs = levels

    def log_density(self, data: Tensor, decoded: Tensor) -> Tensor:
        """Return the log-probability [...] of the nearest levels of data in 0..1."""
        logits = self._levels(decoded).log_softmax(-1)
        chosen = (data * (self.outputs - 1)).round().long().expand(logits.shape[:-1])
        density: Tensor = logits.gather(-1, chosen[..., None])[..., 0].sum(-1)
        return density

    def mean(self, decoded: Tensor) -> Tensor:
        """Return the mean grey value [..., D]."""
        return self._levels(decoded).softmax(-1) @ torch.linspace(0, 1, self.outputs, device=decoded.device)

    def _levels(self, decoded: Tensor) -> Tensor:
        return decoded.reshape(*decoded.shape[:-1], -1, self.outputs)
