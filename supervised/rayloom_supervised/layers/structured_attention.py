"""Structured attention: which keys are chosen together, by a linear chain over them (Kim et al. 2017, section 3.1).

Each query chooses a set of keys z in {0, 1}^K with p(z) in proportion to exp of the sum over k of score(k) z(k) plus
transition(z(k), z(k + 1)). The weight of a key is p(z(k) = 1), so that whole stretches can be chosen, or none: the
weights of a query need not add up to 1. Without transitions they are sigmoids of the scores.
"""

from __future__ import annotations

import torch
from torch import Tensor


def chain_marginals(scores: Tensor, transitions: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return p(z(k) = 1) [B, Q, K] by the forward and backward recursions, in logarithms.

    `scores` [B, Q, K] of choosing a key; `transitions` [2, 2], from a state (row) to the next key's; `mask` bool
    [B, K] or [B, Q, K]: True where a key may be chosen. Others are 0, and the chain goes over them: they neither weigh
    nor link, so that padding changes nothing.
    """
    mask = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask
    mask = (mask[:, None] if mask.ndim == 2 else mask).expand_as(scores)
    scores = scores.masked_fill(~mask, 0)
    unary = torch.stack((torch.zeros_like(scores), scores), dim=3)
    forward = _messages(unary, transitions, mask)
    backward = _messages(unary.flip(2), transitions.T, mask.flip(2)).flip(2)
    joint = forward + unary + backward
    return torch.softmax(joint, dim=3)[..., 1] * mask


def _messages(unary: Tensor, transitions: Tensor, mask: Tensor) -> Tensor:
    """Return log of the sum over all states before each key, for each of its states: [B, Q, K, 2]."""
    message = torch.zeros_like(unary[:, :, 0])
    found = []
    for key in range(unary.shape[2]):
        found.append(message)
        here, real = message + unary[:, :, key], mask[:, :, key, None]
        # The next real key gets this; where keys are padding the message waits.
        after = torch.logsumexp(here[..., :, None] + transitions, dim=2)
        message = torch.where(real, after, message)
    return torch.stack(found, dim=2)


def attend_structured(
    scores: Tensor, values: Tensor, transitions: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the sums [B, Q, v] of values [B, K, v] weighed by p(z(k) = 1), and these weights [B, Q, K]."""
    weights = chain_marginals(scores, transitions, mask)
    return weights @ values, weights
