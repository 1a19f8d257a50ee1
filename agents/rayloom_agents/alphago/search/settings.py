"""Settings of the tree search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from rayloom.contract import UserError


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """Settings of PUCT and Gumbel search."""

    method: Literal["puct", "gumbel"] = "puct"
    """puct: AlphaZero's (Silver et al. 2017); gumbel: sequential halving at the root, the improved policy below it
    (Danihelka et al. 2022), which learns from few simulations."""
    simulations: Annotated[int, Ge(1)] = 64
    """Visits that a root has when the search ends; what a reused tree has already counts."""
    leaves: Annotated[int, Ge(1)] = 1
    """Leaves of one tree that the network judges at once; between them, a visit on its way counts as a loss."""
    exploration: Annotated[float, Ge(0)] = 1.5
    """c_puct, the weight of the prior."""
    unvisited_reduction: Annotated[float, Ge(0)] = 0.2
    """An unvisited action is worth its node's mean value less this times the root of the prior that was visited."""
    noise_share: Annotated[float, Ge(0), Le(1)] = 0.25
    """Share of Dirichlet noise in the prior of a root that explores (puct)."""
    noise_total: Annotated[float, Gt(0)] = 10.0
    """Sum of the Dirichlet's parameters, shared alike by the legal actions: 10 / 361 is AlphaZero's 0.03 on 19x19."""
    forced_playouts: Annotated[float, Ge(0)] = 2.0
    """k of Wu 2019: an exploring root visits each tried action at least sqrt(k * prior * visits) times, and targets
    leave out what was only forced (puct); 0: neither."""
    considered_actions: Annotated[int, Ge(1)] = 16
    """Actions that sequential halving begins with (gumbel)."""
    value_offset: Annotated[float, Ge(0)] = 50.0
    """c_visit of Danihelka et al. (gumbel)."""
    value_scale: Annotated[float, Ge(0)] = 1.0
    """c_scale of Danihelka et al., with values brought from [-1, 1] to [0, 1] (gumbel)."""

    def __post_init__(self) -> None:
        """Refuse numbers out of range (UserError), also where no config is read."""
        for name, least in (("simulations", 1), ("leaves", 1), ("considered_actions", 1), ("forced_playouts", 0.0)):
            if getattr(self, name) < least:
                raise UserError(
                    f"search.{name}: input should be greater than or equal to {least}, not {getattr(self, name)}"
                )
