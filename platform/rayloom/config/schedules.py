"""How the learning rate changes over a run: factors of the rate at its start.

A schedule is a pure function of its settings, the share of the stopping budget that is spent (0 to 1) and the number of
the update (from 1), so that a resumed run goes on as if nothing had happened.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt

from rayloom.components import Kinds, Shipped, component


@dataclass(frozen=True, kw_only=True)
class ConstantConfig:
    """The rate stays, after the warmup."""

    warmup: Annotated[int, Ge(0)] = 0
    """Updates over which the rate first rises from 0 (unit: updates)."""


@dataclass(frozen=True, kw_only=True)
class LinearConfig:
    """The rate falls by a line over the stopping budget."""

    warmup: Annotated[int, Ge(0)] = 0
    """Updates over which the rate first rises from 0 (unit: updates)."""
    final: Annotated[float, Ge(0), Le(1)] = 0.0
    """Rate at the end of the budget, as a share of the start."""


@dataclass(frozen=True, kw_only=True)
class CosineConfig:
    """The rate falls by half a cosine over the stopping budget (Loshchilov and Hutter 2017)."""

    warmup: Annotated[int, Ge(0)] = 0
    """Updates over which the rate first rises from 0 (unit: updates)."""
    final: Annotated[float, Ge(0), Le(1)] = 0.0
    """Rate at the end of the budget, as a share of the start."""


@dataclass(frozen=True, kw_only=True)
class StepConfig:
    """The rate falls by a factor at some points of the stopping budget."""

    warmup: Annotated[int, Ge(0)] = 0
    """Updates over which the rate first rises from 0 (unit: updates)."""
    at: tuple[Annotated[float, Gt(0), Lt(1)], ...] = (0.5, 0.75)
    """Shares of the budget at which it falls."""
    factor: Annotated[float, Gt(0), Lt(1)] = 0.1
    """What it is multiplied by each time."""


@dataclass(frozen=True, kw_only=True)
class ExponentialConfig:
    """The rate falls by the same factor in equal shares of the stopping budget."""

    warmup: Annotated[int, Ge(0)] = 0
    """Updates over which the rate first rises from 0 (unit: updates)."""
    final: Annotated[float, Gt(0), Le(1)] = 0.01
    """Rate at the end of the budget, as a share of the start."""


@dataclass(frozen=True, kw_only=True)
class OneCycleConfig:
    """The rate rises from a small share, then falls to a smaller one, on half cosines (Smith and Topin 2019).

    `learner.optimizer.learning_rate` is its peak.
    """

    rise: Annotated[float, Gt(0), Lt(1)] = 0.3
    """Share of the stopping budget over which it rises."""
    start: Annotated[float, Gt(0), Le(1)] = 0.04
    """Rate at the start, as a share of the peak."""
    final: Annotated[float, Ge(0), Le(1)] = 4e-6
    """Rate at the end of the budget, as a share of the peak."""


def _rise(warmup: int, update: int) -> float:
    return min(1.0, update / warmup) if warmup else 1.0


@component("schedule", ConstantConfig)
def constant(config: ConstantConfig, fraction: float, update: int) -> float:
    """Return the share of the warmup that is done."""
    return _rise(config.warmup, update)


@component("schedule", LinearConfig)
def linear(config: LinearConfig, fraction: float, update: int) -> float:
    """Return 1 at the start and `final` at the end, on a line between."""
    return (1.0 - fraction * (1.0 - config.final)) * _rise(config.warmup, update)


@component("schedule", CosineConfig)
def cosine(config: CosineConfig, fraction: float, update: int) -> float:
    """Return 1 at the start and `final` at the end, on half a cosine between."""
    wave = 0.5 * (1.0 + math.cos(math.pi * fraction))
    return (config.final + (1.0 - config.final) * wave) * _rise(config.warmup, update)


@component("schedule", StepConfig)
def step(config: StepConfig, fraction: float, update: int) -> float:
    """Return the factor to the power of how many points have passed."""
    passed = sum(fraction >= point for point in config.at)
    return float(config.factor**passed) * _rise(config.warmup, update)


@component("schedule", ExponentialConfig)
def exponential(config: ExponentialConfig, fraction: float, update: int) -> float:
    """Return 1 at the start and `final` at the end, on an exponential between."""
    return float(config.final**fraction) * _rise(config.warmup, update)


@component("schedule", OneCycleConfig)
def one_cycle(config: OneCycleConfig, fraction: float, update: int) -> float:
    """Return `start`, 1 after the rise, and `final` at the end, on half cosines between."""
    if fraction < config.rise:
        low, high, share = config.start, 1.0, fraction / config.rise
    else:
        low, high, share = 1.0, config.final, (fraction - config.rise) / (1 - config.rise)
    return low + (high - low) * 0.5 * (1.0 - math.cos(math.pi * share))


SCHEDULES = Kinds(
    "schedule",
    {
        "constant": Shipped(f"{__name__}:constant", ConstantConfig),
        "linear": Shipped(f"{__name__}:linear", LinearConfig),
        "cosine": Shipped(f"{__name__}:cosine", CosineConfig),
        "step": Shipped(f"{__name__}:step", StepConfig),
        "exponential": Shipped(f"{__name__}:exponential", ExponentialConfig),
        "one_cycle": Shipped(f"{__name__}:one_cycle", OneCycleConfig),
    },
    own="a function of (config, fraction, update) that returns a factor, marked @component('schedule', Config)",
    default="constant",
)
"""How the learning rate changes over a run."""
