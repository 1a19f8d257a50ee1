"""Exploration by a share of uniformly random actions that falls by a line: Mnih et al. 2015."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le
from torch import Tensor

from rayloom.contract import AlgorithmConfig


@dataclass(frozen=True, kw_only=True)
class ExplorationConfig(AlgorithmConfig):
    """Settings of agents that explore so."""

    exploration_start: Annotated[float, Ge(0), Le(1)] = 1.0
    """Share of random actions at the start."""
    exploration_end: Annotated[float, Ge(0), Le(1)] = 0.05
    """Share of random actions after `exploration_steps`."""
    exploration_steps: Annotated[int, Ge(1)] = 10_000
    """Environment steps over which the share falls by a line (unit: env_steps)."""


def exploration_share(config: ExplorationConfig, env_steps: int) -> float:
    """Return the share of random actions after so many environment steps."""
    done = min(1.0, env_steps / config.exploration_steps)
    return config.exploration_start + done * (config.exploration_end - config.exploration_start)


def uniform_actions(draws: Tensor, count: int) -> Tensor:
    """Return actions [N] from 0 to `count` - 1 for draws [N], uniform in [0, 1)."""
    return (draws * count).long().clamp_(max=count - 1)
