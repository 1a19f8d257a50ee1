"""Matches against a named engine while a network of Go is trained, as an evaluation of the engine.

    evaluate: {import: "rayloom_agents.alphago.gtp.evaluation:EngineMatches", every: 2_000 updates,
               opponent: "gnugo:1", games: 40, search: {simulations: 100}, wait: false}

The tracker gets a gallery of games, Black's chances in them, what the network would play first, and the games as SGF.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Gt

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
from rayloom_agents.alphago.games.go import Go
from rayloom_agents.alphago.gtp.contestants import Searcher
from rayloom_agents.alphago.gtp.naming import Tables, is_external, make_contestant
from rayloom_agents.alphago.gtp.referee import Referee
from rayloom_agents.alphago.gtp.reports import figures, legal_policy, records, summary
from rayloom_agents.alphago.pictures import policy_matrix
from rayloom_agents.alphago.players import game_of_source
from rayloom_agents.alphago.search import SearchSettings

_SEEDS = 1_000_000
"""Seeds of openings and engines; GNU Go takes small ones."""


@dataclass(frozen=True, kw_only=True)
class EngineMatchesConfig(EvaluationConfig):
    """Settings of the matches."""

    opponent: str = "gnugo:1"
    """gnugo:LEVEL, gtp:COMMAND, search:SIMULATIONS or random."""
    games: Annotated[int, Ge(2)] = 20
    """Games of one evaluation, in pairs with colours exchanged."""
    search: SearchSettings = field(default_factory=lambda: SearchSettings(simulations=64, leaves=4))
    """The network's tree search, without noise."""
    raw: bool = False
    """Play the network's likeliest move, without search."""
    opening_plies: Annotated[int, Ge(0)] = 2
    """Random moves with which a pair of games begins."""
    parallel: Annotated[int, Ge(1)] | None = None
    """Games at once; null: one for each core where the opponent is an engine, else all."""
    answer_s: Annotated[float, Gt(0)] = 60.0
    """How long an engine may take for one answer (seconds)."""
    drawn: Annotated[int, Ge(0)] = 8
    """Games in the gallery."""


class EngineMatches(Evaluation):
    """Plays Go with the latest weights against an opponent that the config names."""

    Config = EngineMatchesConfig
    metrics: ClassVar = {
        "score": Metric(better="max", meaning="1 for a win, one half for a draw"),
        "score_low": Metric(better="max", meaning="lower end of the score's 95 % interval"),
        "won": Metric(better="max", meaning="share of the games"),
        "lost": Metric(better="min", meaning="share of the games"),
        "opponent_faults": Metric(meaning="games that the opponent lost by an illegal move, a crash or a deadline"),
        "seconds_per_move": Metric(better="min", unit="s", meaning="of the network, in all games at once"),
    }

    def __init__(self, config: EngineMatchesConfig, context: EvaluationContext) -> None:
        super().__init__(config, context)
        game = game_of_source(context.source, "evaluate.import: EngineMatches")
        if not isinstance(game, Go):
            raise UserError(f"evaluate.import: EngineMatches is for Go, and the source plays {type(game).__name__}")
        self.game = game

    def run(self, policy: Algorithm, seed: int, budget: Budget) -> Findings:
        """Play the games; every one that ends is a unit of work."""
        config: EngineMatchesConfig = self.config
        games = 2 * ((budget.count or config.games) // 2) or 2
        count = config.parallel or (len(os.sched_getaffinity(0)) if is_external(config.opponent) else games)
        tables = Tables(self.game, min(count, games), seed % _SEEDS, config.answer_s)
        settings = None if config.raw else replace(config.search, noise_share=0.0)
        infer = player(policy).infer
        ours = Searcher("ours", self.game, tables.count, infer, settings)
        opponent = make_contestant(config.opponent, tables)
        try:
            referee = Referee(self.game, (ours, opponent), tables.count, lambda game: budget.done())
            result = referee.play(games, config.opening_plies, tables.seed)
        finally:
            opponent.close()
        found: dict[str, Any] = summary(result)
        metrics = {
            "score": result.score,
            "score_low": found["score_low"],
            "won": found["won"] / games,
            "lost": found["lost"] / games,
            "opponent_faults": float(found["faults"][1]),
            "seconds_per_move": found["seconds_per_move"][0],
        }
        drawn = dict(figures(result, self.game, config.drawn))
        drawn["first_move"] = policy_matrix(legal_policy(self.game, self.game.start(1), infer), self.game.size)
        return Findings(metrics, drawn, records(result, self.game))
