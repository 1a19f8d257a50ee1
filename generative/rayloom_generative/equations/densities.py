"""Log-densities and variational bounds of one example, in nats; pure functions of tensors."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_LOG_TWO_PI = math.log(2 * math.pi)


def bernoulli_log_density(data: Tensor, logits: Tensor) -> Tensor:
    """Return log p(data) [...] of independent bits `data` [..., D], with probabilities sigmoid(logits).

    Data between 0 and 1 give the negative cross-entropy, which is no log-density.
    """
    return -F.binary_cross_entropy_with_logits(logits, data.expand_as(logits), reduction="none").sum(-1)


def bernoulli_entropy(probabilities: Tensor) -> Tensor:
    """Return the entropy [...] of independent bits that are 1 with `probabilities` [..., D].

    No model of bits that are drawn so can have a smaller mean of -log p: Cover and Thomas (2006), theorem 2.6.3.
    """
    zero = 1 - probabilities
    entropy: Tensor = -(torch.special.xlogy(probabilities, probabilities) + torch.special.xlogy(zero, zero)).sum(-1)
    return entropy


def gaussian_log_density(data: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return log N(data; mean, exp(log_variance)) [...] of independent coordinates [..., D]."""
    return -0.5 * (_LOG_TWO_PI + log_variance + (data - mean).square() * torch.exp(-log_variance)).sum(-1)


def standard_normal_divergences(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(N(mean, exp(log_variance)) || N(0, 1)) of each coordinate, [B, L].

    Kingma and Welling (2014), "Auto-encoding variational Bayes", appendix B.
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


def importance_weighted_bound(log_weights: Tensor) -> Tensor:
    """Return log mean exp over the K samples of log weights [K, B]: the bound IW-K on log p(x), [B].

    Burda, Grosse and Salakhutdinov (2016), "Importance weighted autoencoders", equation 8.
    """
    return torch.logsumexp(log_weights, dim=0) - math.log(len(log_weights))
