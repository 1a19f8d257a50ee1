"""What goes wrong with two networks that play against each other, told by name and with what to try.

Alarms look at an evaluation. Each is a metric (`alarm_<name>`, 1 where it is raised) and, once in a run, a warning in
the log; those that are raised also stand in the figure `alarms`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

COLLAPSED_DIVERSITY = 0.6
"""Below this share of the data's own distances the samples count as collapsed."""
COLLAPSED_MODES = 0.5
"""Below this share of the known modes, too."""
SETTLED_UPDATES = 200
"""Before that an untrained generator's samples lie close together, and have not collapsed."""
DEAD_SPREAD = 1e-5
"""A critic whose scores differ by less than this share of their size (or absolutely) tells nothing apart."""
WON = 0.99
"""From this difference of the mean probabilities on, the discriminator leaves the generator nothing to learn from."""
SLOPES = (0.25, 4.0)
"""Outside of these the penalty does not hold the critic's slope at 1."""
DIVERGED_SCORE = 1e4
"""Scores beyond this have left every scale on which data lie."""
DIVERGED_SPREAD = 10.0
"""From this multiple of the data's own distances on, samples have left the data behind."""


@dataclass(frozen=True)
class Alarm:
    """One thing that may be wrong."""

    name: str
    reason: str | None
    """What was seen, as a clause; None when all is well."""
    remedy: str

    @property
    def raised(self) -> bool:
        """Whether it is wrong."""
        return self.reason is not None

    def __str__(self) -> str:
        return f"{self.name.replace('_', ' ')}: {self.reason}; {self.remedy}"


def mode_collapse(updates: int, diversity: float, covered: float | None = None, modes: int = 0) -> Alarm:
    """Look at the samples' relative diversity and, where modes are known, at how many of them are covered."""
    reason = None
    if covered is not None and covered < COLLAPSED_MODES * modes:
        reason = f"the samples cover {covered:.0f} of {modes} modes"
    elif diversity < COLLAPSED_DIVERSITY:
        reason = f"two samples lie {diversity:.2g} times as far apart as two examples of the data"
    return Alarm(
        "mode_collapse",
        None if updates < SETTLED_UPDATES else reason,
        "try WGANGP, more algorithm.critic_steps, a larger learner.batch_size or a lower "
        "algorithm.generator_learning_rate",
    )


def dead_critic(real: Tensor, fake: Tensor) -> Alarm:
    """Look at a critic's scores [N] of data and of samples: whether they are one and the same number."""
    scores = torch.cat((real, fake)).double()
    spread, size = float(scores.max() - scores.min()), float(scores.abs().max())
    dead = spread <= DEAD_SPREAD * max(size, DEAD_SPREAD)
    reason = f"it gives every example the score {size:.3g}, up to {spread:.1g}" if dead else None
    return Alarm(
        "dead_critic",
        reason,
        "its units are dead or its weights clipped away: begin anew with a lower algorithm.critic_learning_rate or a "
        "larger algorithm.clip",
    )


def critic_has_won(real_probability: float, fake_probability: float) -> Alarm:
    """Look at a discriminator's mean probabilities: whether it separates data and samples completely."""
    won = real_probability - fake_probability >= WON
    reason = f"it takes data for real with {real_probability:.4f} and samples with {fake_probability:.2g}"
    return Alarm(
        "critic_has_won",
        reason if won else None,
        "the generator has hardly a gradient: try algorithm.loss: non_saturating, algorithm.spectral_norm: true, fewer "
        "algorithm.critic_steps or a lower algorithm.critic_learning_rate",
    )


def dead_penalty(slope: float) -> Alarm:
    """Look at the mean slope of a critic that a penalty is to hold at 1."""
    held = SLOPES[0] <= slope <= SLOPES[1]
    remedy = "raise algorithm.penalty_weight"
    if slope < SLOPES[0]:
        remedy = "lower algorithm.penalty_weight or algorithm.critic_learning_rate"
    return Alarm(
        "dead_penalty",
        None if held else f"the critic's slope between data and samples is {slope:.3g} and not about 1",
        f"its distances mean nothing: {remedy}",
    )


def divergence(diversity: float, real: Tensor, fake: Tensor) -> Alarm:
    """Look at the samples' relative diversity and at the scores [N]: whether they are finite and on their scale."""
    size = float(torch.cat((real, fake)).abs().max())
    reason = None
    if not math.isfinite(diversity) or not math.isfinite(size):
        reason = "samples or scores are not finite"
    elif size > DIVERGED_SCORE:
        reason = f"scores reach {size:.3g}"
    elif diversity > DIVERGED_SPREAD:
        reason = f"two samples lie {diversity:.3g} times as far apart as two examples of the data"
    return Alarm(
        "divergence",
        reason,
        "lower learner.optimizer.learning_rate, set learner.max_grad_norm or hold the critic by a penalty or by "
        "algorithm.spectral_norm: true",
    )
