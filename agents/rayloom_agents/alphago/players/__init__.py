"""Networks that play at once: folders of this package, each with `parcel.yaml` and `weights.safetensors`.

`rayloom player RUN FOLDER` writes one (a folder here makes it a shipped one, found by its name), and wherever a player
is asked for, its name will do: `rayloom gtp go9x9`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rayloom.contract import CommandHost, Learnt, UserError
from rayloom_agents.alphago.alphazero import player as judge
from rayloom_agents.alphago.games.game import Game
from rayloom_agents.alphago.games.go import Go
from rayloom_agents.alphago.search import Infer, SearchSettings

FOLDER = Path(__file__).parent
PARCEL = "parcel.yaml"


@dataclass(frozen=True)
class TrainedPlayer:
    """A network, its game and its search."""

    learnt: Learnt
    game: Game
    infer: Infer
    search: SearchSettings
    """By PUCT, with the constants that its own games were played with; the simulations are the caller's."""

    @property
    def name(self) -> str:
        """What it is called: its own name, without the time that folders of runs begin with."""
        return re.sub(r"^\d{8}-\d{6}-", "", self.learnt.name)


def shipped_players(folder: Path = FOLDER) -> list[str]:
    """Return the names of the players in a folder."""
    return sorted(path.parent.name for path in folder.glob(f"*/{PARCEL}"))


def load_player(
    host: CommandHost, name: str, weights: str | None = None, simulations: int = 400, folder: Path = FOLDER
) -> TrainedPlayer:
    """Return the player that `name` names: one that is shipped, the folder of another one, or a run.

    UserError where there is none, or where what it has learnt is no board game.
    """
    if "/" not in name and (folder / name / PARCEL).is_file():
        learnt = host.load_parcel(folder / name)
    elif (Path(name) / PARCEL).is_file():
        learnt = host.load_parcel(Path(name))
    else:
        learnt = _load_run(host, name, weights, folder)
    settings = getattr(learnt.source, "search", SearchSettings())
    search = replace(settings, method="puct", simulations=simulations, leaves=min(8, max(1, simulations // 16)))
    return TrainedPlayer(learnt, game_of(learnt), judge(learnt.algorithm).infer, search)


def _load_run(host: CommandHost, name: str, weights: str | None, folder: Path) -> Learnt:
    try:
        return host.load(name, weights)
    except UserError as error:
        shipped = ", ".join(shipped_players(folder)) or "none is shipped"
        raise UserError(f"{error}; players by name: {shipped}") from None


def game_of(learnt: Learnt) -> Game:
    """Return the game that a run has learnt; UserError where it has learnt none."""
    return game_of_source(learnt.source, learnt.name)


def game_of_source(source: Any, who: str) -> Game:
    """Return the game of a source by its settings: its `game`, or for games of experts its size and superko.

    UserError, which begins with `who`, where it has none.
    """
    if hasattr(source, "game"):
        game: Game = source.game.make()
        return game
    if hasattr(source, "size") and hasattr(source, "superko"):
        return Go(source.size, superko=source.superko)
    raise UserError(f"{who} needs a source with a board game, as rayloom_agents.alphago.self_play:SelfPlay")


def go_of(player: TrainedPlayer) -> Go:
    """Return the player's game, as long as people play it; UserError where it is another one than Go."""
    game = player.game
    if not isinstance(game, Go):
        raise UserError(f"{player.name} plays {type(game).__name__}, and GTP is for Go")
    longest = max(game.max_plies, 4 * game.size * game.size)
    return Go(game.size, game.komi, game.superko, longest)
