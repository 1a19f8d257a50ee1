"""Spins on a grid: p(s) ~ exp(sum_i b_i s_i + sum_ij J_ij s_i s_j) with s in {-1, 1} and neighbours i, j.

Fields are [..., H, W]; couplings `right` [H, W-1] join a spin with its right and `down` [H-1, W] with its lower
neighbour. Everything works on a batch of fields at once.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Couplings(NamedTuple):
    """J between neighbours."""

    right: Tensor
    """[H, W-1]."""
    down: Tensor
    """[H-1, W]."""


def neighbour_sum(spins: Tensor, couplings: Couplings) -> Tensor:
    """Return sum_j J_ij s_j for every spin, in the shape of `spins` [..., H, W]."""
    right, down = couplings
    from_right = F.pad(right * spins[..., :, 1:], (0, 1))
    from_left = F.pad(right * spins[..., :, :-1], (1, 0))
    from_below = F.pad(down * spins[..., 1:, :], (0, 0, 0, 1))
    from_above = F.pad(down * spins[..., :-1, :], (0, 0, 1, 0))
    return from_right + from_left + from_below + from_above


def energy(spins: Tensor, field: Tensor, couplings: Couplings) -> Tensor:
    """Return -log p(s) - log Z of spins [..., H, W], [...]."""
    return -(spins * (field + 0.5 * neighbour_sum(spins, couplings))).sum((-2, -1))


def pseudo_log_likelihood(spins: Tensor, field: Tensor, couplings: Couplings) -> Tensor:
    """Return sum_i log p(s_i | all others) [...]: Besag (1975), "Statistical analysis of non-lattice data"."""
    return F.logsigmoid(2 * spins * (field + neighbour_sum(spins, couplings))).sum((-2, -1))


def _checkerboard(spins: Tensor) -> tuple[Tensor, Tensor]:
    rows, columns = torch.arange(spins.shape[-2]), torch.arange(spins.shape[-1])
    even = ((rows[:, None] + columns) % 2 == 0).to(spins.device)
    return even, ~even


def iterated_conditional_modes(start: Tensor, field: Tensor, couplings: Couplings, sweeps: int) -> Tensor:
    """Return spins [..., H, W] after `sweeps` in which each takes its likeliest value given its neighbours.

    Besag (1986). Spins of one colour of the checkerboard do not touch, so that they change at once; the energy never
    rises. A spin without preference stays.
    """
    spins = start
    for _ in range(sweeps):
        for colour in _checkerboard(spins):
            pull = field + neighbour_sum(spins, couplings)
            spins = torch.where(colour & (pull != 0), pull.sign(), spins)
    return spins


def gibbs_sweep(
    spins: Tensor, field: Tensor, couplings: Couplings, generator: torch.Generator, inverse_temperature: float = 1.0
) -> Tensor:
    """Return spins [..., H, W] after each colour of the checkerboard was drawn given the other."""
    for colour in _checkerboard(spins):
        pull = field + neighbour_sum(spins, couplings)
        uniform = torch.rand(spins.shape, generator=generator, device=generator.device, dtype=spins.dtype)
        up = uniform.to(spins.device) < (2 * inverse_temperature * pull).sigmoid()
        spins = torch.where(colour, 2 * up.to(spins.dtype) - 1, spins)
    return spins


class Magnetizations(NamedTuple):
    """What loopy belief propagation found."""

    mean: Tensor
    """E[s_i] [..., H, W]: the belief that the spin is up is (1 + mean) / 2."""
    residual: Tensor
    """Largest change of a mean in the last round, []."""


def loopy_magnetizations(field: Tensor, couplings: Couplings, iterations: int, damping: float = 0.0) -> Magnetizations:
    """Return means of the spins under fields [..., H, W] after `iterations` rounds of sum-product messages.

    The message of i to j is half the log odds that i tells of j: artanh(tanh J_ij tanh(b_i + messages to i but j's)).
    All are sent at once; `damping` in [0, 1) is the share of the old ones.
    """
    right, down = couplings
    strength = (right.tanh(), right.tanh(), down.tanh(), down.tanh())
    # What goes rightwards, leftwards, downwards and upwards along the edges [..., H, W-1] and [..., H-1, W].
    across = field.new_zeros(*field.shape[:-1], field.shape[-1] - 1)
    along = field.new_zeros(*field.shape[:-2], field.shape[-2] - 1, field.shape[-1])
    messages = (across, across, along, along)
    mean = field.tanh()
    residual = field.new_zeros(())
    for _ in range(iterations):
        heard = field + _heard(messages)
        rightwards, leftwards, downwards, upwards = messages
        told = (
            heard[..., :, :-1] - leftwards,
            heard[..., :, 1:] - rightwards,
            heard[..., :-1, :] - upwards,
            heard[..., 1:, :] - downwards,
        )
        sent = tuple(_artanh(factor * each.tanh()) for factor, each in zip(strength, told, strict=True))
        messages = tuple(damping * old + (1 - damping) * new for old, new in zip(messages, sent, strict=True))  # type: ignore[assignment]
        after = (field + _heard(messages)).tanh()
        mean, residual = after, (after - mean).abs().max()
    return Magnetizations(mean, residual)


def _heard(messages: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    rightwards, leftwards, downwards, upwards = messages
    return (
        F.pad(rightwards, (1, 0))
        + F.pad(leftwards, (0, 1))
        + F.pad(downwards, (0, 0, 1, 0))
        + F.pad(upwards, (0, 0, 0, 1))
    )


def _artanh(value: Tensor) -> Tensor:
    limit = 1 - torch.finfo(value.dtype).eps
    return value.clamp(-limit, limit).atanh()
