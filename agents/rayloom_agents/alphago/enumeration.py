"""Every line of play against the network, for games small enough, as an evaluation of the engine.

In each seat the player has one answer to every position (its search without noise) and the opponent tries all that are
legal. A line is one way from the start to the end of a game; a player without a mistake loses none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from rayloom.contract import (
    Algorithm,
    Budget,
    Evaluation,
    EvaluationConfig,
    EvaluationContext,
    Findings,
    Metric,
    UserError,
)
from rayloom_agents.alphago.alphazero import player
from rayloom_agents.alphago.games.game import Game, State, take
from rayloom_agents.alphago.matches import Player
from rayloom_agents.alphago.search import SearchSettings


@dataclass(frozen=True, kw_only=True)
class EnumerationConfig(EvaluationConfig):
    """Settings of the enumeration."""

    search: SearchSettings = field(default_factory=lambda: SearchSettings(simulations=64))
    """The policy's tree search, without noise."""
    raw: bool = False
    """Play the network's likeliest move, without search."""
    most_lines: Annotated[int, Ge(1)] = 100_000
    """Games with more lines than this at once are refused."""


def answers(game: Game, state: State, player: Player) -> NDArray[np.int64]:
    """Return the player's move in every position."""
    turns = np.ones(len(game.mover(state)), np.bool_)
    return player.choose(state, turns, np.random.default_rng(0))


def outcomes_of_all_lines(
    game: Game, make: Any, seat: int, most_lines: int, budget: Budget | None = None
) -> NDArray[np.float32]:
    """Return how every line ends for the player in a `seat` (1 the first, -1 the second): 1, 0 or -1.

    `make(count)` returns a player for so many games. UserError where there are more than `most_lines` at once.
    """
    state, ended = game.start(1), []
    while len(game.mover(state)):
        mine = game.mover(state)[0] == seat  # all lines are at the same ply
        if mine:
            game.play(state, answers(game, state, make(len(game.mover(state)))))
        else:
            rows, actions = np.nonzero(game.legal(state))
            if len(rows) > most_lines:
                raise UserError(
                    f"evaluate.most_lines: the game has {len(rows):,} lines at its ply; play matches instead of all "
                    f"lines, or raise the limit (now {most_lines:,})"
                )
            state = take(state, rows)
            game.play(state, actions)
        over = game.is_over(state)
        ended.append(game.outcome(take(state, over)) * seat)
        state = take(state, ~over)
        if budget is not None:
            budget.done()
    return np.concatenate(ended).astype(np.float32)


class Enumeration(Evaluation):
    """Plays every line of the run's game, in both seats, with the latest weights."""

    Config = EnumerationConfig
    metrics: ClassVar = {
        "lost": Metric(better="min", unit="lines", meaning="lines that the player loses, in both seats"),
        "lost_first": Metric(better="min", unit="lines", meaning="as the first player"),
        "lost_second": Metric(better="min", unit="lines", meaning="as the second player"),
        "won": Metric(better="max", meaning="share of all lines that the player wins"),
        "lines": Metric(unit="lines", meaning="how many there are"),
    }

    def __init__(self, config: EnumerationConfig, context: EvaluationContext) -> None:
        super().__init__(config, context)
        component = getattr(context.source, "game", None)
        if component is None:
            raise UserError("evaluate.import: Enumeration needs a source with a game, such as rayloom_agents' SelfPlay")
        self.game: Game = component.make()

    def run(self, policy: Algorithm, seed: int, budget: Budget) -> Findings:
        """Play all lines; nothing is drawn."""
        config: EnumerationConfig = self.config
        infer = player(policy).infer

        def make(count: int) -> Player:
            return Player(self.game, count, infer, None if config.raw else config.search)

        first, second = (outcomes_of_all_lines(self.game, make, seat, config.most_lines, budget) for seat in (1, -1))
        both = np.concatenate([first, second])
        return Findings(
            {
                "lost": float((both == -1).sum()),
                "lost_first": float((first == -1).sum()),
                "lost_second": float((second == -1).sum()),
                "won": float((both == 1).mean()),
                "lines": float(len(both)),
            }
        )
