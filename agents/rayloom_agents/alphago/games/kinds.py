"""The games that a config can name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le

from rayloom.contract import Kinds, NoSettings, Shipped


@dataclass(frozen=True, kw_only=True)
class HexSettings:
    """Settings of Hex."""

    size: Annotated[int, Ge(2), Le(19)] = 7
    """Lines of the board."""


@dataclass(frozen=True, kw_only=True)
class GoSettings:
    """Settings of Go."""

    size: Annotated[int, Ge(2), Le(19)] = 9
    """Lines of the board."""
    komi: float = 7.5
    """Points that White gets; a whole number makes draws possible."""
    superko: Literal["none", "positional", "situational"] = "positional"
    """Which repetitions are forbidden: of positions, or of positions with the same player to move."""
    max_plies: Annotated[int, Ge(1)] | None = None
    """Where a game ends at the latest and is scored as it stands; null: 3 * size^2."""


GAMES = Kinds(
    "game",
    {
        "tic_tac_toe": Shipped("rayloom_agents.alphago.games.tic_tac_toe:TicTacToe", NoSettings),
        "connect_four": Shipped("rayloom_agents.alphago.games.connect_four:ConnectFour", NoSettings),
        "hex": Shipped("rayloom_agents.alphago.games.hex:Hex", HexSettings),
        "go": Shipped("rayloom_agents.alphago.games.go:Go", GoSettings),
    },
    own="a subclass of rayloom_agents.alphago.games.game.Game",
    base="rayloom_agents.alphago.games.game:Game",
    default="tic_tac_toe",
    keywords=True,
)
"""Board games for two."""
