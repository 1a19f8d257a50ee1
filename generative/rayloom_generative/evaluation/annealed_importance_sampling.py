"""log Z of a restricted Boltzmann machine by annealed importance sampling.

Salakhutdinov and Murray (2008), "On the quantitative analysis of deep belief networks". Chains are drawn from a machine
of independent bits (the base rates of the data), whose log Z is known, and led through intermediate machines
p_beta(v) ~ exp((1 - beta) base' v + beta a' v) prod_j (1 + exp(beta (W' v + b)_j)) to the machine itself.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from rayloom_generative.networks.restricted_boltzmann import RestrictedBoltzmannMachine


class AISEstimate(NamedTuple):
    """What the chains say, scalars in nats."""

    log_partition: Tensor
    """log Z."""
    error: Tensor
    """Standard error of log Z, by the delta method; too small where the chains have missed a mode."""
    effective_chains: Tensor
    """Kish's effective number of chains; a few of many: take more temperatures."""


def temperatures(count: int) -> Tensor:
    """Return inverse temperatures 0 = beta_0 < ... < beta_(count - 1) = 1, denser at the end (as the paper's)."""
    assert count >= 2, "the chains need a beginning and an end"
    shares = torch.linspace(0, 1, count, dtype=torch.float64)
    return 1 - (1 - shares).square()


@torch.no_grad()
def log_partition(
    machine: RestrictedBoltzmannMachine, base: Tensor, chains: int, betas: Tensor, generator: torch.Generator | None
) -> AISEstimate:
    """Estimate log Z with `chains` chains over inverse temperatures `betas` from biases `base` [V] of the base rates.

    Draws from `generator`, which lies on the machine's device; None: torch's global one.
    """
    weight, bias, offset = (
        parameter.detach() for parameter in (machine.weight, machine.visible_bias, machine.hidden_bias)
    )

    def draw(probability: Tensor) -> Tensor:
        uniform = torch.rand(probability.shape, generator=generator, device=probability.device)
        return (uniform < probability).to(probability)

    visible = draw(torch.sigmoid(base).expand(chains, -1))
    log_weights = torch.zeros(chains, dtype=torch.float64, device=weight.device)
    for before, after in zip(betas[:-1].tolist(), betas[1:].tolist(), strict=True):
        fields = visible @ weight + offset
        log_weights += (after - before) * (visible @ (bias - base)).double()
        log_weights += (F.softplus(after * fields) - F.softplus(before * fields)).sum(1).double()
        hidden = draw(torch.sigmoid(after * fields))
        visible = draw(torch.sigmoid((1 - after) * base + after * (hidden @ weight.T + bias)))
    start = F.softplus(base.double()).sum() + weight.shape[1] * math.log(2)
    shares = log_weights.softmax(0)
    relative = shares * chains
    error = relative.std() / math.sqrt(chains)
    return AISEstimate(start + log_weights.logsumexp(0) - math.log(chains), error, 1 / shares.square().sum())


def base_biases(mean: Tensor) -> Tensor:
    """Return the biases whose bits have the means [V] of the data, kept away from certainty."""
    mean = mean.clamp(0.01, 0.99)
    return (mean / (1 - mean)).log()
