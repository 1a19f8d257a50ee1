"""Boltzmann machines: energies, and log-probabilities by enumeration; pure functions, of bits as reals 0 and 1.

General machine of N units: E(s) = -1/2 s' W s - b' s with a symmetric W whose diagonal is 0. Restricted machine of V
visible and H hidden units: E(v, h) = -v' W h - a' v - b' h. p = exp(-E) / Z. Everything is in nats.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ENUMERABLE = 20
"""Units whose states are enumerated at most: a million of them."""

_BLOCK = 2**14  # states that are looked at together


def all_states(units: int) -> Tensor:
    """Return the states of `units` bits, [2^units, units], float32, in binary order: the first unit counts most."""
    assert 0 <= units <= ENUMERABLE, "too many states to enumerate"
    numbers = torch.arange(2**units)
    places = torch.arange(units - 1, -1, -1)
    return ((numbers[:, None] >> places) & 1).float()


def state_index(states: Tensor) -> Tensor:
    """Return which row of `all_states` each of the states [B, units] is, int64 [B]."""
    places = torch.arange(states.shape[1] - 1, -1, -1, device=states.device)
    return (states.long() << places).sum(1)


def energy(states: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return E [B] of states [B, N] of a general machine with weight [N, N] and bias [N]."""
    return -0.5 * ((states @ weight) * states).sum(1) - states @ bias


def free_energy(visible: Tensor, weight: Tensor, visible_bias: Tensor, hidden_bias: Tensor) -> Tensor:
    """Return F(v) = -log sum over h of exp(-E(v, h)), [B], of visible states [B, V] of a restricted machine."""
    return -(visible @ visible_bias) - F.softplus(visible @ weight + hidden_bias).sum(1)


def restricted_log_partition(weight: Tensor, visible_bias: Tensor, hidden_bias: Tensor) -> Tensor:
    """Return log Z of a restricted machine, a scalar in float64, by enumerating its smaller side (at most 20 units)."""
    weight, visible_bias, hidden_bias = weight.double(), visible_bias.double(), hidden_bias.double()
    if weight.shape[0] > weight.shape[1]:
        weight, visible_bias, hidden_bias = weight.T, hidden_bias, visible_bias
    states = all_states(weight.shape[0]).to(weight)
    parts = [
        torch.logsumexp(-free_energy(block, weight, visible_bias, hidden_bias), 0)
        for block in torch.split(states, _BLOCK)
    ]
    return torch.logsumexp(torch.stack(parts), 0)
