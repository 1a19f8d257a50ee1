"""Linear chains: p(y) ~ exp(sum_t emission_t[y_t] + sum_t transition[y_t, y_{t+1}]) over label sequences y.

Emissions are [B, T, K] with lengths [B] of 1..T; what lies behind a sequence's end plays no part. Initial and final
preferences belong to the first and last emission. Rabiner (1989) for the recursions.
"""

from __future__ import annotations

import torch
from torch import Tensor


def inside(length: Tensor, steps: int) -> Tensor:
    """Return which places belong to their sequence, [B, T] bool."""
    return torch.arange(steps, device=length.device) < length[:, None]


def sequence_score(emission: Tensor, transition: Tensor, labels: Tensor, length: Tensor) -> Tensor:
    """Return the unnormalised log-probability [B] of labels [B, T] (int64)."""
    valid = inside(length, emission.shape[1])
    local = emission.gather(2, labels[..., None])[..., 0]
    moves = transition[labels[:, :-1], labels[:, 1:]]
    return local.where(valid, 0.0).sum(1) + moves.where(valid[:, 1:], 0.0).sum(1)


def log_partition(emission: Tensor, transition: Tensor, length: Tensor) -> Tensor:
    """Return log sum over all K^L label sequences [B]: the forward recursion."""
    valid = inside(length, emission.shape[1])
    forward = emission[:, 0]
    for step in range(1, emission.shape[1]):
        grown = (forward[:, :, None] + transition).logsumexp(1) + emission[:, step]
        forward = torch.where(valid[:, step, None], grown, forward)
    return forward.logsumexp(1)


def label_marginals(emission: Tensor, transition: Tensor, length: Tensor) -> Tensor:
    """Return p(y_t) [B, T, K], 0 behind the ends: the derivative of log Z by the emissions."""
    with torch.enable_grad():
        leaf = emission.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(log_partition(leaf, transition.detach(), length).sum(), leaf)
    return gradient


def viterbi(emission: Tensor, transition: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """Return the best label sequences [B, T] (int64, 0 behind the ends) and their scores [B]: Viterbi (1967)."""
    rows, steps, size = emission.shape
    valid = inside(length, steps)
    best, origins = emission[:, 0], []
    stay = torch.arange(size, device=emission.device).expand(rows, size)
    for step in range(1, steps):
        reached, origin = (best[:, :, None] + transition).max(1)
        here = valid[:, step, None]
        best = torch.where(here, reached + emission[:, step], best)
        # Behind a sequence's end the last label is handed through.
        origins.append(torch.where(here, origin, stay))
    score, label = best.max(1)
    labels = [label]
    for origin in reversed(origins):
        label = origin.gather(1, label[:, None])[:, 0]
        labels.append(label)
    return torch.stack(labels[::-1], dim=1).where(valid, 0), score
